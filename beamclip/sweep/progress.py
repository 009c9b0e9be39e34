"""Progress of long-running work, on stderr: one bar at a time, or lines in a log file or a pipe."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from beamclip.reporting.durations import format_duration

# Between two lines. After the first minutes a line comes each time that the work has taken 5 %
# longer, so that the log of a whole day stays short.
_LINE_SECONDS = 5.0
_MAX_LINE_SECONDS = 60.0
_LINE_SHARE = 0.05


class ProgressBars:
    """A `beamclip.stores.Progress` that draws one tqdm bar for each label, one after the other.

    In a log file or a pipe it prints a line every few seconds instead.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._label = ""
        self._total = 0

    def __call__(self, label: str, done: int, total: int) -> None:
        """Show progress.

        Args:
            label: name of the work. A new label ends the current bar and starts another; "" only
                ends it.
            done: number of steps that are done. It may decrease.
            total: number of steps. A new total also starts another bar, because two passes over
                images may have the same label.
        """
        if (label, total) != (self._label, self._total):
            # Other work has begun, so this work is complete, although its last report may have come
            # before its end.
            if self._bar is not None:
                self._bar.update(self._bar.total - self._bar.n)
            self.close()
            self._label = label
            self._total = total
            if label:
                self._bar = (
                    _tqdm_bar(label, done, total) if _redraws() else _Lines(label, done, total)
                )
        if self._bar is not None and done != self._bar.n:
            self._bar.update(done - self._bar.n)

    def set_postfix(self, text: str) -> None:
        """Show a text at the end of the bar, if there is one."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def write(self, text: str) -> None:
        """Print a line above the bar."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """End the current bar, if there is one."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None
        self._label = ""
        self._total = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _redraws() -> bool:
    """Return True if stderr shows a bar that is drawn over itself: on a terminal, in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def _tqdm_bar(label: str, done: int, total: int) -> Any:
    return tqdm(
        total=total,
        # What an interrupted command had done must not count towards the rate.
        initial=done,
        desc=label,
        unit="",
        dynamic_ncols=True,
        file=sys.stderr,
        leave=True,
    )


class _Lines:
    """What `ProgressBars` uses of a tqdm bar, printed as lines."""

    def __init__(self, label: str, done: int, total: int) -> None:
        self.n = done
        self.total = total
        self._label = label
        self._initial = done
        self._postfix = ""
        self._start = time.monotonic()
        self._print()

    def update(self, steps: int) -> None:
        """Add to the steps that are done; print a line if the last one is old enough."""
        self.n += steps
        now = time.monotonic()
        share = _LINE_SHARE * (now - self._start)
        if now - self._printed >= min(max(_LINE_SECONDS, share), _MAX_LINE_SECONDS):
            self._print()

    def set_postfix_str(self, text: str) -> None:
        """Show a text at the end of the next line."""
        self._postfix = text

    def close(self) -> None:
        """Print the last line, unless it is there already."""
        if (self.n, self._postfix) != self._shown:
            self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        self._shown = self.n, self._postfix
        parts = [f"{self._label}: {self.n:,}/{self.total:,}"]
        seconds = self._printed - self._start
        steps = self.n - self._initial
        # Shorter times give no rate worth reading.
        if steps > 0 and seconds >= 1:
            rate = steps / seconds
            parts.append(f"{rate:.3g}/s" if rate < 100 else f"{rate:,.0f}/s")
            if self.n < self.total:
                parts.append(f"{format_duration((self.total - self.n) / rate)} left")
            else:
                parts.append(f"took {format_duration(seconds)}")
        if self._postfix:
            parts.append(self._postfix)
        print(", ".join(parts), file=sys.stderr, flush=True)

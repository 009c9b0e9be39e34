"""Progress bars of long-running work: one bar at a time, on stderr."""

import sys
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm


class ProgressBars:
    """A `beamclip.stores.Progress` that draws one tqdm bar for each label, one after the other."""

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
                self._bar = tqdm(
                    total=total,
                    # What an interrupted command had done must not count towards the rate.
                    initial=done,
                    desc=label,
                    unit="",
                    dynamic_ncols=True,
                    file=sys.stderr,
                    leave=True,
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

"""What the user sees while something long runs: one bar, and nothing else."""

import sys
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm


class ProgressBars:
    """A `Progress` that draws one bar for each label it is told of, with rate and time left, on stderr."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._label, self._total = "", 0

    def __call__(self, label: str, done: int, total: int) -> None:
        if (label, total) != (
            self._label,
            self._total,
        ):  # two passes in a row may have one name; each has a time of its own
            self._complete()  # what comes next has begun, though the last we heard of this may be some moments old
            self.close()
            self._label, self._total = label, total
            if label:
                # What an earlier command did counts as done, not as done in no time.
                self._bar = tqdm(
                    total=total,
                    initial=done,
                    desc=label,
                    unit="",
                    dynamic_ncols=True,
                    file=sys.stderr,
                    leave=True,
                )
        if self._bar is not None and done != self._bar.n:
            self._bar.update(done - self._bar.n)

    def _complete(self) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.total - self._bar.n)

    def note(self, text: str) -> None:
        """Add a word at the bar's end."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """End the current bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._label, self._total = None, "", 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

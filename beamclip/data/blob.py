"""Bytes that are read when they are asked for."""

import time
from contextlib import suppress
from dataclasses import dataclass

from beamclip.config import UserError
from beamclip.data.files import Files, one_line

_WAITS = (0.1, 0.5, 2.0)  # seconds before each further try to read: networks and their disks fail for a moment


@dataclass(frozen=True)
class Blob:
    """A file or a part of one, not read yet.

    Attributes:
        size: in bytes; None for all from `start` on.
    """

    files: Files
    path: str
    start: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """Its bytes. A disk or network that fails is tried again a few times.

        Raises:
            UserError: it failed each time.
        """
        for wait in _WAITS:
            with suppress(Exception):  # each kind of store has errors of its own
                return self._read()
            time.sleep(wait)
        try:
            return self._read()
        except Exception as error:
            times = f"tried {len(_WAITS) + 1} times: {one_line(error)}"
            mend = "see that its disk or network works and run the same command again, or delete the file"
            raise UserError(f"{self.files}/{self.path} can't be read ({times}); {mend}") from None

    def _read(self) -> bytes:
        content = self.files.read(self.path, self.start, self.size)
        if self.size is not None and len(content) != self.size:
            raise OSError(f"it gave {len(content)} bytes instead of {self.size}")
        return content

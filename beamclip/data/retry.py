"""Read from disks and networks that fail for a moment: retry a few times, then raise a UserError.

fsspec's file systems retry each in its own way or not at all, so the retries are here.
"""

import errno
import io
import time
from collections.abc import Callable
from typing import IO, TypeVar

from beamclip.config import UserError

T = TypeVar("T")
_WAITS = (0.1, 0.5, 2.0)
"""Seconds before each retry."""
_FINAL = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM}
"""Errors of a disk that a retry can't fix. fsspec's FileNotFoundError over http has no errno. It is
retried, because it may also mean that the server can't be reached."""


def with_retries(read: Callable[[], T], where: str) -> T:
    """Return what a reading function returns, and call it again if it fails.

    Final errors, such as a missing or truncated file, are not retried.

    Args:
        read: the function.
        where: the name of what is read, for messages.

    Raises:
        UserError: it failed each time, or with a final error.
    """
    waits = list(_WAITS)
    while True:
        try:
            return read()
        # An inner call has retried already.
        except UserError:
            raise
        # Each kind of storage has errors of its own, and many of them are no OSError.
        except Exception as error:
            is_final = isinstance(error, OSError) and error.errno in _FINAL
            if is_final or isinstance(error, EOFError):
                raise UserError(
                    f"{where} can't be read ({one_line(error)}); check that it exists, is complete "
                    "and readable, and run the same command again"
                ) from None
            if not waits:
                raise UserError(
                    f"{where} can't be read (tried {len(_WAITS) + 1} times: {one_line(error)}); "
                    "check its disk or network and run the same command again, or delete the file"
                ) from None
        time.sleep(waits.pop(0))


class RetryingFile(io.RawIOBase):
    """A file, open for reading, that retries every read.

    Failures of disk or network become UserErrors here. So any other error of a program that parses
    the file means that the file is damaged.

    Args:
        file: the open file.
        where: its name, for messages.
    """

    def __init__(self, file: IO[bytes], where: str) -> None:
        self._file = file
        self._where = where
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position, and return it."""
        if whence == io.SEEK_END:
            offset += with_retries(lambda: self._file.seek(0, io.SEEK_END), self._where)
        elif whence == io.SEEK_CUR:
            offset += self._position
        if offset < 0:
            raise OSError(f"byte {offset} is before its start")
        self._position = offset
        return offset

    def read(self, size: int | None = -1) -> bytes:
        """Return `size` bytes from the position, or all that follow."""

        def read_part() -> bytes:
            # Seek each time, because a failed read may have moved the position.
            self._file.seek(self._position)
            return self._file.read(-1 if size is None else size)

        content = with_retries(read_part, self._where)
        self._position += len(content)
        return content

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._file.close()
        super().close()


def one_line(error: BaseException) -> str:
    """Return an error's message for the middle of a sentence: one line, at most 200 characters."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__

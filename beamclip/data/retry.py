"""Reading from disks and networks that fail for a moment: tried again a few times, then one sentence."""

import errno
import io
import time
from collections.abc import Callable
from typing import IO, TypeVar

from beamclip.config import UserError

T = TypeVar("T")
_WAITS = (0.1, 0.5, 2.0)  # seconds before each further try
# What a disk would say again. fsspec's HTTP has no such number for a file that it can't find, which may be one that it can't reach.
_FINAL = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM}


def with_retries(read: Callable[[], T], where: str) -> T:
    """What a function returns that reads, tried again where it fails, unless it would fail for good: no such file, or cut short.

    Args:
        where: what a sentence calls that which is read.

    Raises:
        UserError: it failed each time.
    """
    waits = [*_WAITS]
    while True:
        try:
            return read()
        except UserError:
            raise
        except (
            Exception
        ) as error:  # each kind of store has errors of its own, many of them no OSError
            if isinstance(error, EOFError) or (
                isinstance(error, OSError) and error.errno in _FINAL
            ):
                mend = "see that it is there, whole and readable, and run the same command again"
                raise UserError(f"{where} can't be read ({one_line(error)}); {mend}") from None
            if not waits:
                times = f"tried {len(_WAITS) + 1} times: {one_line(error)}"
                mend = "see that its disk or network works and run the same command again, or delete the file"
                raise UserError(f"{where} can't be read ({times}); {mend}") from None
        time.sleep(waits.pop(0))


class RetryingFile(io.RawIOBase):
    """A file, open for reading, whose every read is `with_retries`. So whatever else goes wrong in a reader of it is the file's own damage.

    Args:
        where: what a sentence calls it.
    """

    def __init__(self, file: IO[bytes], where: str) -> None:
        self._file, self._where, self._at = file, where, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            offset += with_retries(lambda: self._file.seek(0, io.SEEK_END), self._where)
        at = offset + self._at if whence == io.SEEK_CUR else offset
        if at < 0:
            raise OSError(f"byte {at} lies before its start")
        self._at = at
        return at

    def read(self, size: int | None = -1) -> bytes:
        content = with_retries(lambda: self._part(-1 if size is None else size), self._where)
        self._at += len(content)
        return content

    def _part(self, size: int) -> bytes:
        self._file.seek(self._at)  # each time: a try that failed may have moved it
        return self._file.read(size)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def one_line(error: BaseException) -> str:
    """What an error says, for the middle of a sentence."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__

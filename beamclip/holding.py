"""One driver for a sweep at a time."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from beamclip.config import UserError
from beamclip.records import SweepRecord
from beamclip.storage import local_folder

_TAKEN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def held(record: SweepRecord) -> Iterator[None]:
    """Keep a second driver from this sweep as long as this process is at it; however the process ends, the system lets go of it.

    That is why a lock by a file's mere existence won't do, and filelock falls back to one. In storage behind a URI, and in file systems
    that know no locks, nothing keeps a second driver away.

    Raises:
        UserError: another process is at it, or the storage can't be written.
    """
    folder = local_folder(record.folder)
    if folder is None:
        yield
        return
    with _opened(folder.with_name(f".{record.sweep_id}.lock")) as file:  # beside the folder, which is not there before the record is
        if not _lock(file):
            what = f"sweep {record.sweep.name}, {record.sweep_id}, is being run by another process"
            raise UserError(f"{what}; wait for its end, or stop it before --resume")
        try:
            yield
        finally:
            if not folder.exists():
                _forget(Path(file.name))


def _forget(path: Path) -> None:
    """Leave nothing of a sweep that never began. Any other's lock stays: were it deleted, two could each lock a file of that name."""
    path.unlink(missing_ok=True)
    with suppress(OSError):  # there are others
        path.parent.rmdir()
        path.parent.parent.rmdir()


def _opened(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"storage {path.parent} can't be written ({reason}); choose another with --storage") from None


def _lock(file: IO[bytes]) -> bool:
    """Whether nobody else has it. Where files can't be locked, nobody has."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _TAKEN
    return True

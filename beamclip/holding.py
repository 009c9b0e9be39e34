"""One driver for a sweep at a time."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from beamclip.config import UserError
from beamclip.records import SweepRecord
from beamclip.storage import local_folder


@contextmanager
def held(record: SweepRecord) -> Iterator[None]:
    """Keep a second driver from this sweep as long as this process is at it; whatever ends the process, the system lets go of it.

    In storage behind a URI, and in file systems that know no locks, nothing can keep it away.

    Raises:
        UserError: another process is at it.
    """
    folder = local_folder(record.folder)
    if folder is None:
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_name(f".{record.sweep_id}.lock")  # not in the folder, which is not there before the record is
    lock = _acquired(file, f"sweep {record.sweep.name}, {record.sweep_id}, is being run by another process")
    try:
        yield
    finally:
        lock.release()
        file.unlink(missing_ok=True)


def _acquired(file: Path, what: str) -> FileLock:
    lock = FileLock(file)
    try:
        with suppress(NotImplementedError):  # what filelock says of a file system without locks
            lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{what}; wait for its end, or stop it before --resume") from None
    return lock

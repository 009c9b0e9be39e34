"""File helpers of the stores: hashes, stamps, atomic writes, and an error for a full disk."""

import errno
import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from beamclip.config import UserError

Stamp = list[int]
"""[size in bytes, modification time, status change time] of a file; times in ns.

While a stamp stays the same, nothing was written to the file. The modification time alone would
not show that, since programs can set it; the status change time can't be set.
"""
# EDQUOT: the user's quota on the disk is used up.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def key_of(parts: Mapping[str, Any]) -> str:
    """Return the first 16 hex digits of the SHA-256 of `parts` as JSON."""
    # Sorted keys: the order in which parts were added must not matter.
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp_of(path: Path) -> Stamp:
    """Return a file's stamp.

    Raises:
        OSError: there is no such file.
    """
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def temporary_path(path: Path) -> Path:
    """Return a unique path next to `path`, for a file that will be renamed to it.

    It ends in `.tmp`, by which `build_once` finds and deletes left-over files.
    """
    # Not the process id: two machines or containers that share the folder may have the same.
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write, and rename it to `path` if the block succeeds.

    Readers see either the old file or the complete new one, even if several processes write it at
    the same time. If the block fails, the temporary file is deleted.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically (see `atomic_path`)."""
    with atomic_path(path) as temporary:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, sort_keys=True)
        fsync_file(temporary)


def read_json(path: Path) -> Any:
    """Return the value of a JSON file, or None if it does not exist or can't be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def fsync_file(path: Path) -> None:
    """Wait until a file's bytes are on disk.

    Call it before a rename: after a power failure, the new name could otherwise stand for a file
    that is cut short.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())


def make_folder(path: Path) -> Path:
    """Create a folder if needed, and check that it can be written.

    Returns:
        The path.

    Raises:
        UserError: it can't be created or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Permission bits don't tell whether the folder can be written, for example on a read-only
        # mount. So create a file. It has no name: it can't collide with another process's file,
        # and nothing is left of it after a kill.
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror}); choose another folder with --storage"
        ) from None
    return path


@contextmanager
def full_disk_as_user_error(path: Path) -> Iterator[None]:
    """Turn the error of a full disk into a UserError.

    Args:
        path: the store that the block writes.

    Raises:
        UserError: the disk, or the user's quota on it, is full.
    """
    try:
        yield
    except OSError as error:
        if not _is_disk_full(error):
            raise
        raise UserError(
            f"the disk of {path.parent} is full; finished shards are kept: make room and run the "
            "same command again, or choose another folder with --storage"
        ) from None


def _is_disk_full(error: OSError) -> bool:
    if error.errno in _DISK_FULL:
        return True
    # If NumPy can't write a whole array, its error has no errno: "8 requested and 3 written".
    return error.errno is None and " requested and " in str(error)

"""Files as stores need them: hashed, stamped, written whole or not at all, with a sentence where the disk is full."""

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
"""Size, and times of change of content and of anything, in ns: while it stays the same, nobody wrote to the file."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


def key_of(parts: Mapping[str, Any]) -> str:
    """16 hex digits of the SHA-256 of the parts as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp_of(path: Path) -> Stamp:
    """What the file system knows of a file's last change.

    Raises:
        OSError: there is no such file.
    """
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def temporary_for(path: Path) -> Path:
    """A name beside a file, for what is to become that file: nobody else's, on any machine. It ends as builders sweep up."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all, also where others write the same file."""
    temporary = temporary_for(path)
    try:
        with temporary.open("w") as file:
            json.dump(value, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """What a JSON file holds, None where there is no readable one."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def flush(path: Path) -> None:
    """Wait until a file's bytes are on the disk, so that a rename after it can be trusted through a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def make_folder(path: Path) -> Path:
    """Create a folder and see that it can be written.

    Raises:
        UserError: it can't.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(
            dir=path
        ):  # nobody else's, and gone even where this process is killed
            pass
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror}); choose another folder with --storage"
        ) from None
    return path


@contextmanager
def disk_may_be_full(path: Path) -> Iterator[None]:
    """Turn a full disk into a sentence.

    Raises:
        UserError: what was done inside found the disk, or the user's share of it, full.
    """
    try:
        yield
    except OSError as error:
        if not _is_full(error):
            raise
        kept = "finished shards are kept: make room and run the same command again, or choose another folder with --storage"
        raise UserError(f"the disk of {path.parent} is full; {kept}") from None


def _is_full(error: OSError) -> bool:
    """NumPy says of an array that it could not write whole how many items are missing, and not why."""
    return error.errno in _FULL or (error.errno is None and " requested and " in str(error))

"""Symbolic links on this machine: followed, as torchvision's ImageFolder follows them."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

from beamclip.config import UserError


def followed(link: dict[str, Any]) -> dict[str, Any]:
    """What fsspec says of a link, as it would of what the link leads to. One that leads nowhere counts as a file: reading says why."""
    try:
        status = os.stat(link["name"])
    except OSError:
        return {**link, "type": "file"}
    kind = "directory" if stat.S_ISDIR(status.st_mode) else "file" if stat.S_ISREG(status.st_mode) else "other"
    return {**link, "type": kind, "size": status.st_size, "mtime": status.st_mtime}


def refuse_loop(root: Path, path: str) -> None:
    """See that a folder below the root is none of those that one came through to it.

    Raises:
        UserError: a link leads back.
    """
    folder = root / path
    if not folder.is_symlink():
        return
    real = folder.resolve()
    if any(above.resolve() == real for above in folder.parents if above.is_relative_to(root)):
        raise UserError(f"{folder} is a link to a folder that it lies in, which has no end; remove the link")


def leads_nowhere(path: Path) -> bool:
    """Whether this is a link to what is not there, or to itself. That is the link's fault, and not a disk's that fails for a moment."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) and path.is_symlink()
    return False

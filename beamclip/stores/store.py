"""Finished stores: a folder with a manifest, checked for damage when it is opened."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beamclip.config import UserError
from beamclip.stores.io import key_of, read_json, stamp_of, write_json
from beamclip.stores.shards import STAMPS, is_unchanged

FORMAT = 2
"""Version of the manifest."""
MANIFEST = "manifest.json"
"""File that describes a store and lists its files."""


@dataclass(frozen=True)
class Store:
    """A finished store.

    Attributes:
        path: its folder.
        manifest: content of `manifest.json`. Every manifest has `format`, `key`, `parts`,
            `versions` and `files`; each kind of store adds its own entries.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def key(self) -> str:
        """Hash of everything the store depends on; the name of its folder."""
        return str(self.manifest["key"])

    def file(self, name: str) -> Path:
        """Return the path of a file in the store. It need not exist."""
        return self.path / name

    @property
    def bytes(self) -> int:
        """Size of all its files together, without the manifest."""
        return sum(int(description["bytes"]) for description in self.manifest["files"].values())


class StoreDamaged(UserError):
    """A store that can't be used as it is.

    Attributes:
        files: names of the missing or changed files; empty if the store as a whole can't be read.
    """

    def __init__(self, message: str, files: tuple[str, ...] = ()) -> None:
        super().__init__(f"{message}; run again with --repair to rebuild what is damaged")
        self.files = files

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, unpickling calls __init__ with the whole message, which would append the
        # advice again. Other processes only show the message, so a plain UserError is enough.
        return UserError, (str(self),)


def store_path(root: Path, kind: str, parts: Mapping[str, Any]) -> Path:
    """Return the folder of the store with these parts, whether it exists or not."""
    return root / kind / key_of(parts)


def open_store(path: Path) -> Store:
    """Open a finished store and check that no file has changed since it was written.

    A file is read and its checksum compared only if its size or times differ from those at the
    last correct checksum. So a store that was copied from elsewhere is read once as a whole.
    Otherwise only files that were written to are read.

    Raises:
        StoreDamaged: the manifest can't be read or has an older format, or a file is missing, cut
            short or changed.
        UserError: a newer beamclip wrote the store.
    """
    manifest = _read_manifest(path)
    files: dict[str, Any] = manifest["files"]
    stamps = read_json(path / STAMPS) or {}
    damaged = []
    for name, description in files.items():
        if not is_unchanged(path / name, description, stamps.get(name)):
            damaged.append(name)
    if damaged:
        first = damaged[0]
        message = f"{path / first} {_describe_damage(path / first, files[first])}"
        others = len(damaged) - 1
        if others:
            message += f", and {others} more of its files {'is' if others == 1 else 'are'} damaged"
        raise StoreDamaged(message, tuple(damaged))
    _save_stamps(path, files, stamps)
    return Store(path, manifest)


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict):
        raise StoreDamaged(f"{path} has no readable {MANIFEST}, so it is not a finished store")
    version = manifest.get("format")
    # No StoreDamaged here: a repair would delete a store that a newer beamclip can read.
    if isinstance(version, int) and version > FORMAT:
        raise UserError(
            f"{path} was written by a newer beamclip (store format {version}, not {FORMAT}); "
            "upgrade this one"
        )
    if version != FORMAT:
        raise StoreDamaged(f"{path} has store format {version}, but {FORMAT} is read here")
    return manifest


def _describe_damage(path: Path, description: Mapping[str, Any]) -> str:
    if not path.exists():
        return "is missing"
    size = path.stat().st_size
    if size != description["bytes"]:
        return f"has {size} bytes instead of {description['bytes']}"
    return "has changed since it was written (its checksum)"


def _save_stamps(path: Path, files: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Save the stamps of files whose checksums are correct, so that they are not read again.

    Args:
        path: the store.
        files: names of its files, as keys.
        saved: the stamps in `stamps.json`. If they are the current ones, nothing is written.
    """
    # In a folder that can't be written, changed files are read at every opening.
    with suppress(OSError):
        stamps = {name: stamp_of(path / name) for name in files}
        if stamps != saved:
            write_json(path / STAMPS, stamps)

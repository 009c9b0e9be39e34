"""Finished stores: a folder, its manifest, and whether its files are still what was written."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beamclip.config import UserError
from beamclip.stores.io import key_of, read_json, stamp_of, write_json
from beamclip.stores.shards import STAMPS, unchanged

FORMAT = 2


@dataclass(frozen=True)
class Store:
    """A finished store: its folder and its manifest."""

    path: Path
    manifest: dict[str, Any]

    @property
    def key(self) -> str:
        return str(self.manifest["key"])

    def file(self, name: str) -> Path:
        """Path of one of its files."""
        return self.path / name

    @property
    def bytes(self) -> int:
        """Size of all its files together."""
        return sum(int(facts["bytes"]) for facts in self.manifest["files"].values())


class StoreDamaged(UserError):
    """A store can't be used as it lies there.

    Attributes:
        files: those that are missing or changed; empty where the store as a whole can't be read.
    """

    def __init__(self, message: str, files: tuple[str, ...] = ()) -> None:
        super().__init__(f"{message}; run again with --repair to rebuild what is damaged")
        self.files = files

    def __reduce__(self) -> tuple[Any, ...]:
        return UserError, (str(self),)  # other processes need the sentence only


def store_path(root: Path, kind: str, parts: Mapping[str, Any]) -> Path:
    """Where the store with these parts is, or will be."""
    return root / kind / key_of(parts)


def open_store(path: Path) -> Store:
    """Open a finished store and see that none of its files has changed since it was written.

    A file whose size and times are those noted when its checksum was last true is taken for good; any other is read and its
    checksum compared. So a store is read whole once on each disk, and a byte that anyone changes is found at the next opening.

    Raises:
        StoreDamaged: no readable store is there, it has an older format, or a file is missing, cut short or changed.
        UserError: it has a newer format.
    """
    manifest = _read_manifest(path)
    stamps = read_json(path / STAMPS) or {}
    files: dict[str, Any] = manifest["files"]
    damaged = tuple(
        name for name, facts in files.items() if not unchanged(path / name, facts, stamps.get(name))
    )
    if damaged:
        more = f" and {len(damaged) - 1} more of its files" if len(damaged) > 1 else ""
        raise StoreDamaged(
            f"{path / damaged[0]}{more} {_trouble(path / damaged[0], files[damaged[0]])}", damaged
        )
    note_stamps(path, files, stamps)
    return Store(path, manifest)


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict):
        raise StoreDamaged(f"{path} holds no readable manifest.json, so it is no finished store")
    if isinstance(manifest.get("format"), int) and manifest["format"] > FORMAT:
        raise UserError(
            f"{path} was written by a newer beamclip (store format {manifest['format']}, not {FORMAT}); upgrade this one"
        )
    if manifest.get("format") != FORMAT:
        raise StoreDamaged(
            f"{path} has store format {manifest.get('format')}, but {FORMAT} is read here"
        )
    return manifest


def _trouble(path: Path, facts: Mapping[str, Any]) -> str:
    if not path.exists():
        return "is missing"
    size = path.stat().st_size
    return (
        f"has {size} bytes instead of {facts['bytes']}"
        if size != facts["bytes"]
        else "has changed since it was written (its checksum)"
    )


def note_stamps(path: Path, files: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Remember that these files are good as they are now. Where that can't be written, they are read again next time."""
    with suppress(OSError):
        stamps = {name: stamp_of(path / name) for name in files}
        if stamps != known:
            write_json(path / STAMPS, stamps)

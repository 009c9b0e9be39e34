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


@dataclass(frozen=True)
class Store:
    """A finished store.

    Attributes:
        path: its folder.
        manifest: its content, with at least `format`, `key`, `parts`, `versions` and `files`.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def key(self) -> str:
        """Hash of everything the store depends on; the name of its folder."""
        return str(self.manifest["key"])

    def file(self, name: str) -> Path:
        """Return the path of one of its files."""
        return self.path / name

    @property
    def bytes(self) -> int:
        """Size of all its files together."""
        return sum(int(facts["bytes"]) for facts in self.manifest["files"].values())


class StoreDamaged(UserError):
    """A store that can't be used as it is.

    Attributes:
        files: names of the missing or changed files; empty if the store as a whole can't be read.
    """

    def __init__(self, message: str, files: tuple[str, ...] = ()) -> None:
        super().__init__(f"{message}; run again with --repair to rebuild what is damaged")
        self.files = files

    def __reduce__(self) -> tuple[Any, ...]:
        # Unpickling would call __init__ with the whole message. Other processes only show it.
        return UserError, (str(self),)


def store_path(root: Path, kind: str, parts: Mapping[str, Any]) -> Path:
    """Return the folder of the store with these parts, whether it exists or not."""
    return root / kind / key_of(parts)


def open_store(path: Path) -> Store:
    """Open a finished store and check that no file has changed since it was written.

    If a file's size and times are those of the last correct checksum, it is not read. Otherwise it
    is read and its checksum compared. So a store is read whole once on each disk, and a changed
    byte is found at the next opening.

    Raises:
        StoreDamaged: there is no readable store, it has an older format, or a file is missing, cut
            short or changed.
        UserError: it has a newer format.
    """
    manifest = _read_manifest(path)
    files: dict[str, Any] = manifest["files"]
    stamps = read_json(path / STAMPS) or {}
    damaged = []
    for name, facts in files.items():
        if not is_unchanged(path / name, facts, stamps.get(name)):
            damaged.append(name)
    if damaged:
        first = damaged[0]
        more = f" and {len(damaged) - 1} more of its files" if len(damaged) > 1 else ""
        problem = _describe_damage(path / first, files[first])
        raise StoreDamaged(f"{path / first}{more} {problem}", tuple(damaged))
    _save_stamps(path, files, stamps)
    return Store(path, manifest)


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict):
        raise StoreDamaged(f"{path} holds no readable manifest.json, so it is no finished store")
    version = manifest.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise UserError(
            f"{path} was written by a newer beamclip (store format {version}, not {FORMAT}); "
            "upgrade this one"
        )
    if version != FORMAT:
        raise StoreDamaged(f"{path} has store format {version}, but {FORMAT} is read here")
    return manifest


def _describe_damage(path: Path, facts: Mapping[str, Any]) -> str:
    if not path.exists():
        return "is missing"
    size = path.stat().st_size
    if size != facts["bytes"]:
        return f"has {size} bytes instead of {facts['bytes']}"
    return "has changed since it was written (its checksum)"


def _save_stamps(path: Path, files: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Save the stamps of files whose checksums are correct, so that they are not read again.

    In a folder that can't be written they are read at each opening.
    """
    with suppress(OSError):
        stamps = {name: stamp_of(path / name) for name in files}
        if stamps != known:
            write_json(path / STAMPS, stamps)

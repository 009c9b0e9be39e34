"""Costly things made once and kept: a folder addressed by a hash of everything it depends on.

A store is built under a temporary name by one builder while others wait, described by a manifest, and renamed into place when
it is whole: a store that exists is complete. A builder that was killed leaves its temporary folder and its ledger of finished
shards; the next one goes on from there.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from beamclip.config import UserError

FORMAT = 1
Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much is done, how much there is)."""


def silent(label: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


def key_of(parts: Mapping[str, Any]) -> str:
    """16 hex digits of the SHA-256 of the parts as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


class Shards:
    """The ledger of a store that is being built: which shards are whole, with their checksums."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ledger = folder / "ledger.json"
        self.finished: dict[str, str] = json.loads(self._ledger.read_text()) if self._ledger.exists() else {}

    def is_finished(self, name: str) -> bool:
        """True where an earlier builder finished this shard and its bytes are still the same."""
        path = self.folder / name
        return name in self.finished and path.exists() and file_hash(path) == self.finished[name]

    def finish(self, name: str, temporary: Path) -> None:
        """Rename a shard into place and write it into the ledger."""
        digest = file_hash(temporary)
        os.replace(temporary, self.folder / name)
        self.finished[name] = digest
        write_json(self._ledger, self.finished)


Build = Callable[[Path], dict[str, Any]]
"""Fills a folder and returns what its manifest should say beside key, parts, versions and files."""


def open_store(path: Path) -> Store:
    """Open a finished store, checking that its files have the sizes its manifest states.

    Raises:
        UserError: no store is there, it has another format version, or a file is missing or cut short.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
    except (OSError, json.JSONDecodeError):
        raise UserError(f"{path} holds no readable manifest.json, so it is no finished store; delete the folder to build it anew") from None
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path} has store format {manifest.get('format')}, but {FORMAT} is read here; delete the folder to build it anew")
    for name, facts in manifest["files"].items():
        size = (path / name).stat().st_size if (path / name).exists() else None
        if size != facts["bytes"]:
            raise UserError(f"{path / name} has {size} bytes instead of {facts['bytes']}; delete the folder {path} to build it anew")
    return Store(path, manifest)


def store_path(root: Path, kind: str, parts: Mapping[str, Any]) -> Path:
    """Where the store with these parts is, or will be."""
    return root / kind / key_of(parts)


def build_once(root: Path, kind: str, parts: Mapping[str, Any], build: Build) -> Store:
    """Open the store that depends on exactly these parts, building it first where it does not exist.

    Args:
        root: folder of all stores; all builders must see the same one.
        kind: `packed`, `embeddings`, `anchors`…
        parts: everything the content depends on; JSON values.
        build: called with an empty or half-filled folder (see `Shards`) while a file lock keeps other builders waiting.

    Raises:
        UserError: the folder can't be written, or an existing store is damaged.
    """
    path = store_path(root, kind, parts)
    make_folder(path.parent)
    if path.exists():
        return open_store(path)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            _build(path, parts, build)
    return open_store(path)


def _build(path: Path, parts: Mapping[str, Any], build: Build) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.mkdir(exist_ok=True)
    facts = build(partial)
    (partial / "ledger.json").unlink(missing_ok=True)
    names = sorted(str(f.relative_to(partial)) for f in partial.rglob("*") if f.is_file() and f.name != "manifest.json")
    files = {name: {"bytes": (partial / name).stat().st_size, "sha256": file_hash(partial / name)} for name in names}
    versions = {"beamclip": version("beamclip"), "numpy": version("numpy")}
    manifest = {"format": FORMAT, "key": path.name, "parts": dict(parts), "versions": versions, "files": files, **facts}
    write_json(partial / "manifest.json", manifest)
    os.replace(partial, path)


def discard_partial(root: Path, kind: str, parts: Mapping[str, Any]) -> None:
    """Delete what a failed builder left, where going on from it makes no sense."""
    path = store_path(root, kind, parts)
    shutil.rmtree(path.with_name(f".{path.name}.partial"), ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def make_folder(path: Path) -> Path:
    """Create a folder and see that it can be written.

    Raises:
        UserError: it can't.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror}); choose another folder with --storage") from None
    return path

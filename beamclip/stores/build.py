"""Building a store once: one process builds while others wait, and a killed build is resumed."""

import os
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from beamclip import __version__
from beamclip.stores.io import (
    file_hash,
    full_disk_as_user_error,
    make_folder,
    read_json,
    stamp_of,
    write_json,
)
from beamclip.stores.shards import RECORDS, STAMPS, Progress, Shards, silent
from beamclip.stores.store import FORMAT, Store, StoreDamaged, open_store, store_path

Build = Callable[[Path], dict[str, Any]]
"""Fills a folder, and returns entries for its manifest: JSON values by name."""

PLAN = "plan.json"
_MANIFEST = "manifest.json"
_LOCK_TIMEOUT = 0.2  # seconds to wait before the user is told


def build_once(  # noqa: PLR0913 - its callers pass the last two on from the command line
    root: Path,
    kind: str,
    parts: Mapping[str, Any],
    build: Build,
    progress: Progress = silent,
    repair: bool = False,
) -> Store:
    """Open the store that depends on exactly these parts; build it first if it does not exist.

    Args:
        root: folder of all stores; all builders must see the same one.
        kind: `packed`, `embeddings`, `anchors`…
        parts: everything the content depends on; JSON values. The store's key is their hash.
        build: called with an empty folder, or one with finished shards (see `Shards`), while a file
            lock keeps other builders waiting.
        progress: told that another process builds the store.
        repair: rebuild what is damaged in a store that exists.

    Raises:
        UserError: the folder can't be written, the disk is full, or the store is damaged.
    """
    path = store_path(root, kind, parts)
    make_folder(path.parent)
    if path.exists() and not repair:
        return open_store(path)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=_LOCK_TIMEOUT)
    except Timeout:
        progress(f"waiting for another process that builds {kind}", 0, 1)
        lock.acquire()
    try:
        if path.exists() and repair:
            _reopen_if_damaged(path)
        if not path.exists():
            with full_disk_as_user_error(path):
                _build(path, parts, build)
    finally:
        lock.release()
    return open_store(path)


def partial_path(path: Path) -> Path:
    """Return the folder in which a store is while it is being built."""
    return path.with_name(f".{path.name}.partial")


def finished_shards(path: Path) -> list[dict[str, Any]]:
    """Return the records of the shards that building or repairing a store would keep."""
    if not path.exists():
        return Shards(partial_path(path)).finished()
    try:
        open_store(path)
    except StoreDamaged as damage:
        if not damage.files:
            return []
    return Shards(path).finished()


def load_or_make_plan(folder: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the plan of a store that is being built; make and save it if there is none.

    A plan holds what a builder decides for itself, such as rows a shard. It is saved so that a
    build which is resumed decides the same.

    Args:
        folder: of the store that is being built.
        make: returns the plan; JSON values.
    """
    plan = read_json(folder / PLAN)
    if plan is None:
        plan = make()
        write_json(folder / PLAN, plan)
    return dict(plan)


def _reopen_if_damaged(path: Path) -> None:
    """Turn a damaged store back into a partial one, without its damaged files.

    If the damage concerns the store as a whole, nothing of it is kept.
    """
    try:
        open_store(path)
    except StoreDamaged as damage:
        partial = partial_path(path)
        shutil.rmtree(partial, ignore_errors=True)
        for name in (*damage.files, _MANIFEST, STAMPS):
            (path / name).unlink(missing_ok=True)
        os.replace(path, partial)
        if not damage.files:
            shutil.rmtree(partial)


def _build(path: Path, parts: Mapping[str, Any], build: Build) -> None:
    partial = partial_path(path)
    partial.mkdir(exist_ok=True)
    _delete_temporary_files(partial)
    entries = build(partial)
    _delete_temporary_files(partial)
    files, stamps = _describe_files(partial)
    manifest = {
        "format": FORMAT,
        "key": path.name,
        "parts": dict(parts),
        "versions": {"beamclip": __version__, "numpy": version("numpy")},
        "files": files,
        **entries,
    }
    write_json(partial / STAMPS, stamps)
    write_json(partial / _MANIFEST, manifest)
    os.replace(partial, path)


def _delete_temporary_files(folder: Path) -> None:
    """Delete half-written files of killed writers.

    A writer that outlived its builder loses its file too, but no one waits for that file.
    """
    for pattern in ("*.tmp", "*.tmp.npy"):
        for path in list(folder.rglob(pattern)):
            path.unlink(missing_ok=True)


def _describe_files(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return sizes and checksums, and stamps, of all files of a store, by name.

    Those of shards were computed when they were written. Their stamps move from the records to the
    store's own file.
    """
    files: dict[str, Any] = {}
    stamps: dict[str, Any] = {}
    for record in sorted((folder / RECORDS).glob("*.json")):
        shard_stamps = record.with_suffix(".stamps")
        files |= read_json(record)["files"]
        stamps |= read_json(shard_stamps) or {}
        shard_stamps.unlink(missing_ok=True)
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in (_MANIFEST, STAMPS) or name in files or not path.is_file():
            continue
        stamps[name] = stamp_of(path)
        files[name] = {"bytes": path.stat().st_size, "sha256": file_hash(path)}
    return files, stamps

"""Building a store once: one builder, others wait, a killed one is gone on from, a damaged store is mended."""

import os
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from beamclip import __version__
from beamclip.stores.io import (
    disk_may_be_full,
    file_hash,
    make_folder,
    read_json,
    stamp_of,
    write_json,
)
from beamclip.stores.shards import RECORDS, STAMPS, Progress, Shards, silent
from beamclip.stores.store import FORMAT, Store, StoreDamaged, open_store, store_path

Build = Callable[[Path], dict[str, Any]]
"""Fills a folder and returns what its manifest should say beside key, parts, versions and files."""
PLAN = "plan.json"


def build_once(
    root: Path,
    kind: str,
    parts: Mapping[str, Any],
    build: Build,
    progress: Progress = silent,
    repair: bool = False,
) -> Store:
    """Open the store that depends on exactly these parts, building it first where it does not exist.

    Args:
        root: folder of all stores; all builders must see the same one.
        kind: `packed`, `embeddings`, `anchors`…
        parts: everything the content depends on; JSON values.
        build: called with an empty or half-filled folder (see `Shards`) while a file lock keeps other builders waiting.
        repair: build again what is damaged in a store that exists.

    Raises:
        UserError: the folder can't be written, the disk is full, or an existing store is damaged.
    """
    path = store_path(root, kind, parts)
    make_folder(path.parent)
    if path.exists() and not repair:
        return open_store(path)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        progress(f"waiting for another process that builds {kind}", 0, 1)
        lock.acquire()
    try:
        if path.exists():
            _mend(path, repair)
        if not path.exists():
            with disk_may_be_full(path):
                _build(path, parts, build)
    finally:
        lock.release()
    return open_store(path)


def partial_path(path: Path) -> Path:
    """Where a store lies while it is being built."""
    return path.with_name(f".{path.name}.partial")


def kept_shards(path: Path) -> list[dict[str, Any]]:
    """Records of the shards that building a store, or repairing it, would not make again."""
    if not path.exists():
        return Shards(partial_path(path)).finished()
    try:
        open_store(path)
    except StoreDamaged as damage:
        if not damage.files:
            return []
    return Shards(path).finished()


def planned(folder: Path, decide: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a builder decides for itself (rows a shard, images a batch), kept so that one which goes on decides the same."""
    kept = read_json(folder / PLAN)
    if kept is None:
        kept = decide()
        write_json(folder / PLAN, kept)
    return dict(kept)


def _mend(path: Path, repair: bool) -> None:
    """Turn a damaged store back into one that is being built, without what is damaged."""
    try:
        open_store(path)
    except StoreDamaged as damage:
        if not repair:
            raise
        _take_apart(path, damage.files)


def _take_apart(path: Path, damaged: tuple[str, ...]) -> None:
    partial = partial_path(path)
    shutil.rmtree(partial, ignore_errors=True)
    for name in (*damaged, "manifest.json", STAMPS):
        (path / name).unlink(missing_ok=True)
    os.replace(path, partial)
    if not damaged:
        shutil.rmtree(partial)


def _build(path: Path, parts: Mapping[str, Any], build: Build) -> None:
    partial = partial_path(path)
    partial.mkdir(exist_ok=True)
    _sweep(partial)
    facts = build(partial)
    files, stamps = _described(partial)
    versions = {"beamclip": __version__, "numpy": version("numpy")}
    manifest = {
        "format": FORMAT,
        "key": path.name,
        "parts": dict(parts),
        "versions": versions,
        "files": files,
        **facts,
    }
    write_json(partial / STAMPS, stamps)
    write_json(partial / "manifest.json", manifest)
    os.replace(partial, path)


def _sweep(folder: Path) -> None:
    """Remove what killed writers left half written. One that lives on after its builder loses its file, and nobody waits for it."""
    for path in list(folder.rglob("*.tmp")) + list(folder.rglob("*.tmp.npy")):
        path.unlink(missing_ok=True)


def _described(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sizes, checksums and stamps of all files of a store; those of shards were taken when they were written."""
    files, stamps = dict[str, Any](), dict[str, Any]()
    _sweep(folder)
    for record in sorted((folder / RECORDS).glob("*.json")):
        files |= read_json(record)["files"]
        stamps |= read_json(record.with_suffix(".stamps")) or {}
        record.with_suffix(".stamps").unlink(missing_ok=True)
    for path in sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", STAMPS)
    ):
        name = str(path.relative_to(folder))
        if name not in files:
            stamps[name] = stamp_of(path)
            files[name] = {"bytes": path.stat().st_size, "sha256": file_hash(path)}
    return files, stamps

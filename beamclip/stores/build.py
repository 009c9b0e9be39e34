"""Build a store once: one process builds while others wait, and a killed build is resumed.

A store is built in `.KEY.partial` next to its final folder `KEY`, under the file lock `KEY.lock`.
"""

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
from beamclip.stores.store import FORMAT, MANIFEST, Store, StoreDamaged, open_store, store_path

Build = Callable[[Path], dict[str, Any]]
"""Called with a folder, it writes a store's files there.

It returns further entries of the store's manifest: JSON values by name.
"""

PLAN = "plan.json"
# Seconds to wait for the lock before the user is told that another process holds it.
_LOCK_TIMEOUT = 0.2


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
        root: folder of all stores. Processes that share stores must use the same one.
        kind: name of a folder below `root`, such as `packed`, `embeddings` or `anchors`.
        parts: everything the content depends on; JSON values. The store's key is their hash.
        build: called at most once, with the folder to write to. The folder is empty, or has the
            finished shards of a killed build (see `Shards`). Meanwhile a file lock keeps other
            builders waiting.
        progress: called once if another process is building the store.
        repair: if the store exists but is damaged, rebuild its damaged files.

    Raises:
        UserError: the folder can't be written, the disk is full, or a newer beamclip wrote the
            store.
        StoreDamaged: the store exists and is damaged, and `repair` is not set.
    """
    path = store_path(root, kind, parts)
    make_folder(path.parent)
    # A store that exists is complete, so it needs no lock.
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
        # Another process may have built the store while this one waited for the lock.
        if not path.exists():
            with full_disk_as_user_error(path):
                _build(path, parts, build)
    finally:
        lock.release()
    return open_store(path)


def partial_path(path: Path) -> Path:
    """Return the folder in which the store `path` is built."""
    # It is next to the final folder, so that it can be renamed: both are on the same disk.
    return path.with_name(f".{path.name}.partial")


def finished_shards(path: Path) -> list[dict[str, Any]]:
    """Return the records of the shards that building or repairing the store `path` would keep.

    Raises:
        UserError: a newer beamclip wrote the store.
    """
    if not path.exists():
        return Shards(partial_path(path)).finished()
    try:
        open_store(path)
    except StoreDamaged as damage:
        if not damage.files:
            # The store as a whole is unusable, and a repair starts from nothing.
            return []
    return Shards(path).finished()


def load_or_make_plan(folder: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the saved plan of a store that is being built; make and save it if there is none.

    A plan holds decisions of the builder that are not in the store's key, such as the batch size
    or the number of rows per shard. A resumed build reads it, so that it decides the same and
    writes the same bytes.

    Args:
        folder: the folder that the store is built in.
        make: returns a new plan; JSON values by name.
    """
    plan = read_json(folder / PLAN)
    if plan is None:
        plan = make()
        write_json(folder / PLAN, plan)
    return dict(plan)


def _reopen_if_damaged(path: Path) -> None:
    """Turn a damaged store back into a partial one, without its damaged files.

    If the store as a whole can't be read, or has an older format, all of it is deleted.
    """
    try:
        open_store(path)
    except StoreDamaged as damage:
        partial = partial_path(path)
        # A folder can't be renamed to one that has files in it.
        shutil.rmtree(partial, ignore_errors=True)
        for name in (*damage.files, MANIFEST, STAMPS):
            (path / name).unlink(missing_ok=True)
        os.replace(path, partial)
        if not damage.files:
            shutil.rmtree(partial)


def _build(path: Path, parts: Mapping[str, Any], build: Build) -> None:
    """Build a store in its partial folder, and rename that to `path`."""
    partial = partial_path(path)
    # The folder of a killed build is used again, with its finished shards.
    partial.mkdir(exist_ok=True)
    # Before the build, this frees disk space. After it, this keeps such files out of the manifest.
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
    # Renaming a folder does not change the times of its files, so the stamps stay valid.
    write_json(partial / STAMPS, stamps)
    write_json(partial / MANIFEST, manifest)
    # Last, because a store that has its final name counts as complete.
    os.replace(partial, path)


def _delete_temporary_files(folder: Path) -> None:
    """Delete half-written files of killed writers.

    A writer that outlived its builder also loses its file, but nothing waits for that file.
    """
    for pattern in ("*.tmp", "*.tmp.npy"):
        # A list, since files are deleted from the folders that rglob is reading.
        for path in list(folder.rglob(pattern)):
            path.unlink(missing_ok=True)


def _describe_files(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return two dicts by file name: size and checksum of each file, and its stamp.

    The stamps files of single shards are deleted, since `stamps.json` replaces them.
    """
    files: dict[str, Any] = {}
    stamps: dict[str, Any] = {}
    # The process that wrote a shard computed its checksums, so shards need not be read here.
    for record in sorted((folder / RECORDS).glob("*.json")):
        shard_stamps = record.with_suffix(".stamps")
        files |= read_json(record)["files"]
        stamps |= read_json(shard_stamps) or {}
        shard_stamps.unlink(missing_ok=True)
    # What remains are the records themselves, and files that belong to the store as a whole.
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in (MANIFEST, STAMPS) or name in files or not path.is_file():
            continue
        stamps[name] = stamp_of(path)
        files[name] = {"bytes": path.stat().st_size, "sha256": file_hash(path)}
    return files, stamps

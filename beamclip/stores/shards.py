"""Work that is split into shards, which any process may write, and which are kept once finished.

No process keeps a common ledger. Every finished shard has its own record next to it, so any number
of processes on any machines may write into one folder, and each of them may be killed.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from beamclip.stores.io import file_hash, fsync_file, read_json, stamp_of, write_json

Progress = Callable[[str, int, int], None]
"""Called with (label, done, total) while work proceeds."""

RECORDS = "shards"
"""Folder of the records inside a store."""
STAMPS = "stamps.json"
"""File with the stamps that files had when their checksums were correct.

Stamps differ from machine to machine, so they are not in the manifest.
"""


def silent(label: str, done: int, total: int) -> None:
    """Show nothing. A `Progress`."""


class Shards:
    """The finished shards of a store, which may still be under construction.

    Args:
        folder: of the store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record_name(self, index: int) -> str:
        """Return the path of a shard's record inside the store."""
        return f"{RECORDS}/{index:05d}.json"

    def finish(self, index: int, files: Mapping[str, Path], facts: Mapping[str, Any]) -> None:
        """Rename a shard's files into place and write its record.

        Called by the process that wrote the files.

        Args:
            index: number of the shard.
            files: final name -> temporary file, on the same disk.
            facts: further entries of the record; JSON values.
        """
        described = {}
        for name, temporary in files.items():
            fsync_file(temporary)
            described[name] = {"bytes": temporary.stat().st_size, "sha256": file_hash(temporary)}
            os.replace(temporary, self.folder / name)
        path = self.folder / self.record_name(index)
        path.parent.mkdir(exist_ok=True)
        stamps = {name: stamp_of(self.folder / name) for name in files}
        write_json(path.with_suffix(".stamps"), stamps)
        write_json(path, {"files": described, **facts})

    def record(self, index: int) -> dict[str, Any] | None:
        """Return a shard's record, or None if it is not finished or its files were changed."""
        path = self.folder / self.record_name(index)
        record = read_json(path)
        if record is None:
            return None
        stamps = read_json(path.with_suffix(".stamps")) or {}
        for name, facts in record["files"].items():
            if not is_unchanged(self.folder / name, facts, stamps.get(name)):
                return None
        return dict(record)

    def finished(self) -> list[dict[str, Any]]:
        """Return the records of all finished shards, in the order of their numbers."""
        indices = sorted(int(path.stem) for path in (self.folder / RECORDS).glob("*.json"))
        records = [self.record(index) for index in indices]
        return [record for record in records if record is not None]


def is_unchanged(path: Path, facts: Mapping[str, Any], stamp: list[int] | None) -> bool:
    """Return True if a file is as its manifest describes it.

    Args:
        path: the file.
        facts: its `bytes` and `sha256`.
        stamp: of the file when its checksum was correct. If it is the same now, the file isn't
            read.
    """
    try:
        current = stamp_of(path)
        if current[0] != facts["bytes"]:
            return False
        return current == stamp or file_hash(path) == facts["sha256"]
    except OSError:
        return False


class Job(Protocol):
    """Work in shards. Jobs are pickled to the processes that do the work."""

    @property
    def label(self) -> str:
        """Label of its progress bar."""

    @property
    def sizes(self) -> Sequence[int]:
        """Images in each shard."""

    @property
    def on_device(self) -> bool:
        """True if a process should have a GPU if there is one, else several cores."""

    def open(self, folder: Path, threads: int) -> Callable[[int], None]:
        """Do what is costly once for each process.

        Args:
            folder: to write shards to.
            threads: number of threads to use.

        Returns:
            A function that writes the shard with a given number.
        """


Runner = Callable[[Job, Sequence[int], Path], Iterator[int]]
"""Writes shards of a job into a folder, in any order, and yields each number when it is
finished."""


def in_process(job: Job, shards: Sequence[int], folder: Path) -> Iterator[int]:
    """Write shards one after the other in this process. A `Runner` that needs no cluster."""
    if not shards:
        return
    write = job.open(folder, os.cpu_count() or 1)
    for index in shards:
        write(index)
        yield index


def run_shards(job: Job, folder: Path, run: Runner, progress: Progress) -> Iterator[dict[str, Any]]:
    """Write all shards of a job that are not finished yet.

    Args:
        job: the work.
        folder: of the store.
        run: writes the missing shards.
        progress: called at the start and after each shard, in images.

    Yields:
        The record of every shard: first of those that were finished before, then of the others as
        they finish.
    """
    shards = Shards(folder)
    total = sum(job.sizes)
    done = 0
    kept: list[dict[str, Any]] = []
    missing: list[int] = []
    for index, size in enumerate(job.sizes):
        record = shards.record(index)
        if record is None:
            missing.append(index)
        else:
            kept.append(record)
            done += size
    progress(job.label, done, total)
    yield from kept
    for index in run(job, missing, folder):
        record = shards.record(index)
        assert record is not None, f"shard {index} was reported as finished"
        done += job.sizes[index]
        progress(job.label, done, total)
        yield record

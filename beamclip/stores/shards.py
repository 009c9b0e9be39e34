"""Split work into shards, which any process may write and which are kept once they are finished.

There is no common list of finished shards. Each finished shard has its own record next to its
files. So any number of processes, on any machines, can write into one folder, and a killed one
loses only the shards it was writing.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from beamclip.stores.io import Stamp, file_hash, fsync_file, read_json, stamp_of, write_json

Progress = Callable[[str, int, int], None]
"""Called with (label, done, total) while work proceeds."""

RECORDS = "shards"
"""Folder of the records inside a store."""
STAMPS = "stamps.json"
"""File with the stamps that files had when their checksums were correct.

Stamps differ from machine to machine, so they are not in the manifest.
"""


def silent(label: str, done: int, total: int) -> None:
    """Report nothing: the `Progress` of callers that show none."""


class Shards:
    """The finished shards of a store, which may still be under construction.

    Args:
        folder: the store's folder, or the partial one in which it is being built.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record_name(self, index: int) -> str:
        """Return the path of a shard's record, relative to the store."""
        return f"{RECORDS}/{index:05d}.json"

    def finish(self, index: int, files: Mapping[str, Path], facts: Mapping[str, Any]) -> None:
        """Rename a shard's files into place and write its record.

        Call it in the process that wrote the files.

        Args:
            index: number of the shard.
            files: final name -> temporary file, on the same disk.
            facts: further entries of the record; JSON values by name.
        """
        described = {}
        for name, temporary in files.items():
            # Without it, a power failure could leave a renamed file that is empty.
            fsync_file(temporary)
            described[name] = {"bytes": temporary.stat().st_size, "sha256": file_hash(temporary)}
            os.replace(temporary, self.folder / name)

        path = self.folder / self.record_name(index)
        path.parent.mkdir(exist_ok=True)
        # Stamps are taken after the rename, which changes a file's time of status change. They
        # have their own file, so that a rebuilt shard has the same record, byte by byte.
        stamps = {name: stamp_of(self.folder / name) for name in files}
        write_json(path.with_suffix(".stamps"), stamps)
        # The record is written last, because a shard that has one counts as finished.
        write_json(path, {"files": described, **facts})

    def record(self, index: int) -> dict[str, Any] | None:
        """Return a shard's record, or None if the shard is not finished or its files changed."""
        path = self.folder / self.record_name(index)
        record = read_json(path)
        if record is None:
            return None
        # In a finished store there are none: its shards are read and their checksums compared.
        stamps = read_json(path.with_suffix(".stamps")) or {}
        for name, description in record["files"].items():
            if not is_unchanged(self.folder / name, description, stamps.get(name)):
                return None
        return dict(record)

    def finished(self) -> list[dict[str, Any]]:
        """Return the records of all finished shards, in the order of their numbers."""
        indices = sorted(int(path.stem) for path in (self.folder / RECORDS).glob("*.json"))
        records = [self.record(index) for index in indices]
        return [record for record in records if record is not None]


def is_unchanged(path: Path, description: Mapping[str, Any], stamp: Stamp | None) -> bool:
    """Return whether a file still has the content that its manifest or record describes.

    Args:
        path: the file. If it can't be read, the result is False.
        description: its expected size, `bytes`, and checksum, `sha256`.
        stamp: the file's stamp when its checksum was correct, or None if unknown. If the file
            still has it, the file is not read.
    """
    try:
        current = stamp_of(path)
        # Compared first, since a wrong size makes reading the file unnecessary.
        if current[0] != description["bytes"]:
            return False
        return current == stamp or file_hash(path) == description["sha256"]
    except OSError:
        return False


class Job(Protocol):
    """Work in shards. A job is pickled and sent to the processes that do the work."""

    @property
    def label(self) -> str:
        """Label of its progress bar."""

    @property
    def sizes(self) -> Sequence[int]:
        """Number of items (images or sentences) in each shard."""

    @property
    def on_device(self) -> bool:
        """True if each process should have a GPU, or several cores if there are no GPUs.

        If False, each process has one core.
        """

    def open(self, folder: Path, threads: int) -> Callable[[int], None]:
        """Load what every shard needs, such as a teacher. Called once in each process.

        Args:
            folder: folder to write shards to.
            threads: number of threads to use.

        Returns:
            A function that takes the number of a shard, and writes and finishes that shard. If the
            job is not `on_device`, two threads may call it at once.
        """


Runner = Callable[[Job, Sequence[int], Path], Iterator[int]]
"""Called with a job, the numbers of shards to write, and the folder to write them to.

It yields the number of each shard when it is finished, in any order.
"""


def in_process(job: Job, shards: Sequence[int], folder: Path) -> Iterator[int]:
    """Write shards one after the other in this process. A `Runner` that needs no cluster."""
    # Opening a job is costly: it may load a teacher.
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
        folder: folder of the store that is being built.
        run: writes the missing shards.
        progress: called at the start and after each shard, with numbers of items.

    Yields:
        The record of every shard: first those that were already finished, then the others as they
        finish.
    """
    shards = Shards(folder)
    total = sum(job.sizes)
    done = 0
    finished: list[dict[str, Any]] = []
    missing: list[int] = []
    for index, size in enumerate(job.sizes):
        record = shards.record(index)
        if record is None:
            missing.append(index)
        else:
            finished.append(record)
            done += size
    # A resumed pass starts its bar at the items of the finished shards.
    progress(job.label, done, total)
    yield from finished

    for index in run(job, missing, folder):
        # Read from the disk: the shard may have been written by a process on another machine.
        record = shards.record(index)
        assert record is not None, f"shard {index} was reported as finished, but is not on the disk"
        done += job.sizes[index]
        progress(job.label, done, total)
        yield record

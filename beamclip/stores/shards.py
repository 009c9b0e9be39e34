"""Work that falls into shards: each is written by whoever gets it, and what is finished stays finished.

There is no ledger that one process keeps: every finished shard has a record of its own beside it, so that any number of
processes on any machines may write into one folder, and each of them may be killed.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from beamclip.stores.io import file_hash, flush, read_json, stamp_of, write_json

# How long work says how far it is.


Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much is done, how much there is)."""


def silent(label: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


RECORDS = "shards"
"""Folder of the records inside a store."""
STAMPS = "stamps.json"
"""Beside the manifest: the stamps of files whose checksums were true. It differs from machine to machine and is in no checksum."""


class Shards:
    """The finished shards of a store that is being built, or stands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record_name(self, index: int) -> str:
        """Where, inside the store, the record of a shard lies."""
        return f"{RECORDS}/{index:05d}.json"

    def finish(self, index: int, files: Mapping[str, Path], facts: Mapping[str, Any]) -> None:
        """Rename a shard's files into place and write its record. Called by the process that wrote them.

        Args:
            files: final name -> temporary file, on the same disk.
            facts: what else the record should say; JSON values.
        """
        described = {}
        for name, temporary in files.items():
            flush(temporary)
            described[name] = {"bytes": temporary.stat().st_size, "sha256": file_hash(temporary)}
            os.replace(temporary, self.folder / name)
        path = self.folder / self.record_name(index)
        path.parent.mkdir(exist_ok=True)
        write_json(
            path.with_suffix(".stamps"), {name: stamp_of(self.folder / name) for name in files}
        )
        write_json(path, {"files": described, **facts})

    def record(self, index: int) -> dict[str, Any] | None:
        """A finished shard's record; None where it is not finished or its files are no longer what was written."""
        path = self.folder / self.record_name(index)
        record, stamps = read_json(path), read_json(path.with_suffix(".stamps")) or {}
        if record is None:
            return None
        good = all(
            unchanged(self.folder / name, facts, stamps.get(name))
            for name, facts in record["files"].items()
        )
        return dict(record) if good else None

    def finished(self) -> list[dict[str, Any]]:
        """The records of all finished shards, in their order."""
        indices = sorted(int(path.stem) for path in (self.folder / RECORDS).glob("*.json"))
        return [record for record in map(self.record, indices) if record is not None]


def unchanged(path: Path, facts: Mapping[str, Any], stamp: list[int] | None) -> bool:
    """True where a file is as its manifest says. Its bytes are read only where its stamp is not the one known to be good."""
    try:
        now = stamp_of(path)
        return now[0] == facts["bytes"] and (now == stamp or file_hash(path) == facts["sha256"])
    except OSError:
        return False


class Job(Protocol):
    """Work in shards, described so that it can be sent to other processes."""

    @property
    def label(self) -> str:
        """What a progress bar calls it."""

    @property
    def sizes(self) -> Sequence[int]:
        """Images in each shard."""

    @property
    def on_device(self) -> bool:
        """Whether it wants a GPU where there is one, and otherwise several cores."""

    def open(self, folder: Path, threads: int) -> Callable[[int], None]:
        """Do what is costly once in a process, and return the function that writes one shard into the folder."""


Runner = Callable[[Job, Sequence[int], Path], Iterator[int]]
"""Has these shards of a job written into a folder, in any order, and yields each as it is finished."""


def in_process(job: Job, shards: Sequence[int], folder: Path) -> Iterator[int]:
    """The runner that needs no cluster: one shard after the other, here."""
    if not shards:
        return
    write = job.open(folder, os.cpu_count() or 1)
    for index in shards:
        write(index)
        yield index


def run_shards(job: Job, folder: Path, run: Runner, progress: Progress) -> Iterator[dict[str, Any]]:
    """Have all shards of a job written that are not there yet.

    Yields:
        The record of every shard: of those that were there, then of the others as they are finished.
    """
    shards, total = Shards(folder), sum(job.sizes)
    records = {index: shards.record(index) for index in range(len(job.sizes))}
    done = sum(size for index, size in enumerate(job.sizes) if records[index] is not None)
    progress(job.label, done, total)
    yield from (record for record in records.values() if record is not None)
    for index in run(job, [index for index, record in records.items() if record is None], folder):
        record = shards.record(index)
        assert record is not None, f"shard {index} was said to be finished"
        done += job.sizes[index]
        progress(job.label, done, total)
        yield record

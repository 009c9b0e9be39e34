"""Building embedding stores."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from beamclip.config import TowerConfig, UserError
from beamclip.data import PackedImages, draw, open_packed
from beamclip.data.augmentation.render import render
from beamclip.data.packed import Ids
from beamclip.data.prefetch import Prefetcher
from beamclip.preparation.throughput import Throughput, measure_throughput
from beamclip.stores import (
    PLAN,
    Job,
    Progress,
    Runner,
    Shards,
    build_once,
    in_process,
    kept_shards,
    key_of,
    open_store,
    partial_path,
    planned,
    read_json,
    run_shards,
    silent,
    store_path,
    temporary_for,
)
from beamclip.teachers import Embeddings, Teacher, ViewSet, covering_store
from beamclip.teachers.embeddings import KIND, if_good, shard_name, stores_like
from beamclip.teachers.loading import load_same_teacher

# What finished stores hold already of a set of views: those rows are copied, and no teacher sees their images again.


@dataclass(frozen=True)
class ReusableRows:
    """Stores of the same teacher, images, recipe and seed, with other samples or another number of views.

    Attributes:
        paths: their folders.
    """

    paths: tuple[Path, ...] = ()

    @classmethod
    def beside(cls, root: Path, basis: dict[str, Any], views: ViewSet) -> "ReusableRows":
        """All finished stores that hold some of these views. basis: see `covering_store`."""
        likes = (store.path for store in stores_like(root, basis))
        return cls(
            tuple(path for path in likes if np.isin(np.load(path / "ids.npy"), views.ids).any())
        )

    @classmethod
    def named(cls, root: Path, names: Sequence[str]) -> "ReusableRows":
        """Stores by their keys, as a builder noted them; one that was deleted or damaged since is left out, and its rows are made."""
        stores = (if_good(root / KIND / name) for name in names)
        return cls(tuple(store.path for store in stores if store is not None))

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths}

    @cached_property
    def _stores(self) -> list[Embeddings]:
        return [Embeddings(open_store(path)) for path in self.paths]

    def holds(self, ids: Ids, views: int) -> NDArray[np.bool_]:
        """Which views of these samples are held, [N, views]."""
        held = np.zeros((len(ids), views), bool)
        for store in self._stores:
            held[np.isin(ids, store.ids), : store.views] = True
        return held

    def fill(self, ids: Ids, out: NDArray[np.float16]) -> None:
        """Copy the rows that are held into `out`, [N, views, D]."""
        for store in self._stores:
            rows = np.flatnonzero(np.isin(ids, store.ids))
            for view in range(min(store.views, out.shape[1])):
                out[rows, view] = store.gather(ids[rows], view)


# The teacher pass as work in shards: what each shard holds, and how one is written.


Place = tuple[Ids, int]
"""Rows of a shard, and a view."""


@dataclass(frozen=True)
class EmbedJob:
    """All views of a set, in shards of neighbouring samples.

    Attributes:
        fingerprint: key of the teacher's; whoever loads it elsewhere must find the same.
        known: stores that hold some of these views already.
        loaded: the teacher, where it is in this process already; it is not sent anywhere.
    """

    packed: Path
    teacher: TowerConfig
    fingerprint: str
    views: ViewSet
    batch_size: int
    shard_rows: int
    known: ReusableRows = ReusableRows()
    loaded: Teacher | None = field(default=None, repr=False, compare=False)
    label: str = "teacher images"
    on_device: bool = True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "loaded": None}

    @cached_property
    def sizes(self) -> Sequence[int]:
        """Images that the teacher must see for each shard: samples times views, without those whose rows are copied."""
        return sizes_of(self.views, self.shard_rows, self.known)

    def open(self, folder: Path, threads: int) -> Callable[[int], None]:
        """The function that encodes one shard.

        Raises:
            UserError: the teacher that this process finds under the name is another one.
        """
        teacher = self.loaded or load_same_teacher(
            self.teacher, threads, lambda found: found.fingerprint, self.fingerprint
        )
        packed = open_packed(self.packed)
        return lambda index: self._write(teacher, packed, folder, index)

    def _write(self, teacher: Teacher, packed: PackedImages, folder: Path, index: int) -> None:
        ids = self.views.ids[index * self.shard_rows : (index + 1) * self.shard_rows]
        out = np.zeros((len(ids), self.views.count, teacher.width), np.float16)
        self.known.fill(ids, out)

        def make(place: Place) -> tuple[Place, torch.Tensor]:
            return place, pixels_of(teacher, packed, self.views, ids[place[0]], place[1])

        for (rows, view), pixels in Prefetcher(self._batches(ids), make, teacher.device):
            out[rows, view] = teacher.encode_images(pixels).cpu().numpy()
        _check_norms(out, teacher.name)
        temporary = temporary_for(folder / shard_name(index))
        with temporary.open("wb") as file:
            np.save(file, out)
        Shards(folder).finish(
            index,
            {shard_name(index): temporary},
            {"index": index, "rows": len(ids), "views": self.views.count},
        )
        packed.release()

    def _batches(self, ids: Ids) -> Iterator[Place]:
        """Rows and view of what is to be encoded, batch by batch."""
        missing = ~self.known.holds(ids, self.views.count)
        for view in range(self.views.count):
            rows = np.flatnonzero(missing[:, view])
            yield from (
                (rows[start : start + self.batch_size], view)
                for start in range(0, len(rows), self.batch_size)
            )


def sizes_of(views: ViewSet, shard_rows: int, known: ReusableRows) -> list[int]:
    """Images to encode for each shard of so many samples."""
    missing = (~known.holds(views.ids, views.count)).sum(axis=1)
    return [
        int(missing[start : start + shard_rows].sum())
        for start in range(0, len(views.ids), shard_rows)
    ]


def pixels_of(
    teacher: Teacher, packed: PackedImages, views: ViewSet, ids: Ids, view: int
) -> torch.Tensor:
    """What the teacher is fed for one view of these samples, [N, 3, S, S] on its device."""
    images = torch.from_numpy(packed.read(ids)).to(teacher.device)
    return render(
        images, draw(views.recipe, ids, np.full(len(ids), view), views.seed), teacher.pixels
    )


def _check_norms(embeddings: NDArray[np.float16], name: str) -> None:
    norms = np.linalg.norm(embeddings.astype(np.float32), axis=2)
    if not (np.abs(norms - 1) < 0.01).all():
        raise UserError(
            f"the teacher {name} gave embeddings that are zero or not finite; try teacher.precision=fp32"
        )


_SHARDS = 64  # at least so many where there is enough to share out
_SHARD_ROWS = (64, 4096)


def basis_of(teacher: Teacher, packed: PackedImages, views: ViewSet) -> dict[str, Any]:
    """What an embedding depends on beside its sample and view ids."""
    return {"images": packed.key, "teacher": teacher.fingerprint, **views.drawn()}


def parts_of(teacher: Teacher, packed: PackedImages, views: ViewSet) -> dict[str, Any]:
    """All that an embedding store depends on."""
    return {**basis_of(teacher, packed, views), **views.parts()}


def shard_rows(samples: int) -> int:
    """Samples in a shard."""
    low, high = _SHARD_ROWS
    return min(high, max(low, -(-samples // (_SHARDS * low)) * low))


def embed(
    teacher: Teacher,
    packed: PackedImages,
    views: ViewSet,
    root: Path,
    progress: Progress = silent,
    run: Runner = in_process,
    repair: bool = False,
    pace: Callable[[Teacher], Throughput] = measure_throughput,
) -> tuple[Embeddings, int]:
    """Open a store that holds these views, running the teacher over what no other store holds.

    Args:
        run: who encodes: this process, or a cluster's.
        repair: encode again what is damaged in the store of these views, where no other holds them.
        pace: finds the batch size, where encoding happens.

    Returns:
        The store, which may hold more samples and views than asked for, and how many images the teacher encoded for this call:
        0 where the store was there.

    Raises:
        UserError: as `build_once`; or the teacher gives embeddings that are zero or not finite.
    """
    covering = covering_store(root, basis_of(teacher, packed, views), views)
    if covering is not None:
        return Embeddings(covering), 0
    encoded = 0

    def build(folder: Path) -> dict[str, Any]:
        nonlocal encoded
        facts, encoded = _build(teacher, packed, views, folder, progress, run, pace)
        return facts

    store = build_once(root, KIND, parts_of(teacher, packed, views), build, progress, repair)
    return Embeddings(store), encoded


def _build(
    teacher: Teacher,
    packed: PackedImages,
    views: ViewSet,
    folder: Path,
    progress: Progress,
    run: Runner,
    pace: Callable[[Teacher], Throughput],
) -> tuple[dict[str, Any], int]:
    np.save(folder / "ids.npy", views.ids)
    root = folder.parents[1]
    known = ReusableRows.beside(root, basis_of(teacher, packed, views), views)
    plan = planned(folder, lambda: _plan(pace(teacher).batch_size, views, known))
    rows, known = plan["shard_rows"], ReusableRows.named(root, plan["known"])
    job = EmbedJob(
        packed.store.path,
        teacher.config,
        key_of(teacher.fingerprint),
        views,
        plan["batch_size"],
        rows,
        known,
        teacher,
    )
    encoded = 0

    def counting(job: Job, shards: Sequence[int], folder: Path) -> Iterator[int]:
        nonlocal encoded
        for index in run(job, shards, folder):
            encoded += job.sizes[index]
            yield index

    for _ in run_shards(job, folder, counting, progress):
        pass
    shape = {
        "samples": len(views.ids),
        "views": views.count,
        "width": teacher.width,
        "dtype": "float16",
        "shard_rows": rows,
    }
    return {**shape, "teacher": teacher.name, "teacher_output": teacher.probe_output}, encoded


def _plan(batch_size: int, views: ViewSet, known: ReusableRows) -> dict[str, Any]:
    return {
        "batch_size": batch_size,
        "shard_rows": shard_rows(len(views.ids)),
        "known": [path.name for path in known.paths],
    }


def images_left(teacher: Teacher, packed: PackedImages, views: ViewSet, root: Path) -> int:
    """Images that the teacher would have to see for a store that is not there: without rows of other stores and finished shards."""
    path = store_path(root, KIND, parts_of(teacher, packed, views))
    plan = read_json(partial_path(path) / PLAN) or read_json(path / PLAN)
    known = (
        ReusableRows.named(root, plan["known"])
        if plan
        else ReusableRows.beside(root, basis_of(teacher, packed, views), views)
    )
    sizes = sizes_of(views, plan["shard_rows"] if plan else shard_rows(len(views.ids)), known)
    left: int = sum(sizes) - sum(sizes[record["index"]] for record in kept_shards(path))
    return left

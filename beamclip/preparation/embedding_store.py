"""Build embedding stores: run a teacher over views of packed images, in shards.

A store contains a teacher's fp16 embeddings of `ViewSet.count` views of each sample. No teacher
encodes a view of an image twice: rows that another finished store of the same teacher, images,
recipe and seed already holds are copied. A build that was stopped resumes from its finished shards.
`beamclip.teachers.embeddings` reads these stores.
"""

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
    finished_shards,
    in_process,
    key_of,
    load_or_make_plan,
    open_store,
    partial_path,
    read_json,
    run_shards,
    silent,
    store_path,
    temporary_path,
)
from beamclip.teachers import Embeddings, Teacher, ViewSet, covering_store
from beamclip.teachers.embeddings import KIND, matching_stores, open_intact_store, shard_name
from beamclip.teachers.loading import load_same_teacher

# Shards hold about 1/64 of the samples, at least 64 and at most 4096, in multiples of 64.
_SHARDS = 64
_MIN_SHARD_ROWS = 64
_MAX_SHARD_ROWS = 4096

BatchRows = tuple[Ids, int]
"""Rows of a shard, and the id of the view to encode."""


def embedding_basis(teacher: Teacher, packed: PackedImages, views: ViewSet) -> dict[str, Any]:
    """Return what an embedding depends on in addition to its sample and view ids."""
    return {"images": packed.key, "teacher": teacher.fingerprint, **views.render_parts()}


def embedding_parts(teacher: Teacher, packed: PackedImages, views: ViewSet) -> dict[str, Any]:
    """Return the parts of the key of an embedding store: all that it depends on."""
    return {**embedding_basis(teacher, packed, views), **views.key_parts()}


def render_for_teacher(
    teacher: Teacher, packed: PackedImages, views: ViewSet, ids: Ids, view: int
) -> torch.Tensor:
    """Render one view of these samples for a teacher, [N, 3, S, S] on its device."""
    images = torch.from_numpy(packed.read(ids)).to(teacher.device)
    parameters = draw(views.recipe, ids, np.full(len(ids), view), views.seed)
    return render(images, parameters, teacher.pixels)


@dataclass(frozen=True)
class ReusableRows:
    """Rows of finished stores that can be copied instead of encoded again.

    The stores have the same teacher, images, recipe and seed, with other samples or another number
    of views.

    Attributes:
        paths: folders of the stores.
    """

    paths: tuple[Path, ...] = ()

    @classmethod
    def find(cls, root: Path, basis: dict[str, Any], views: ViewSet) -> "ReusableRows":
        """Find all finished stores that hold some of these views.

        Args:
            root: folder of all stores.
            basis: the `embedding_basis` of the views.
            views: the views that are needed.
        """
        paths = []
        for store in matching_stores(root, basis):
            if np.isin(np.load(store.path / "ids.npy"), views.ids).any():
                paths.append(store.path)
        return cls(tuple(paths))

    @classmethod
    def from_keys(cls, root: Path, keys: Sequence[str]) -> "ReusableRows":
        """Return the stores with these keys, without those that were deleted or damaged since."""
        stores = [open_intact_store(root / KIND / key) for key in keys]
        return cls(tuple(store.path for store in stores if store is not None))

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths}

    @cached_property
    def _stores(self) -> list[Embeddings]:
        return [Embeddings(open_store(path)) for path in self.paths]

    def contains(self, ids: Ids, views: int) -> NDArray[np.bool_]:
        """Return which views of these samples can be copied, [N, views]."""
        contained = np.zeros((len(ids), views), bool)
        for store in self._stores:
            contained[np.isin(ids, store.ids), : store.views] = True
        return contained

    def copy_into(self, out: NDArray[np.float16], ids: Ids) -> None:
        """Copy the rows that exist into `out`, [N, views, D].

        Args:
            out: changed in place; other rows are left as they are.
            ids: sample ids of its rows, [N].
        """
        for store in self._stores:
            rows = np.flatnonzero(np.isin(ids, store.ids))
            for view in range(min(store.views, out.shape[1])):
                out[rows, view] = store.gather(ids[rows], view)


def images_per_shard(views: ViewSet, shard_rows: int, reusable: ReusableRows) -> list[int]:
    """Return how many images the teacher must encode for each shard of `shard_rows` samples."""
    missing = (~reusable.contains(views.ids, views.count)).sum(axis=1)
    starts = range(0, len(views.ids), shard_rows)
    return [int(missing[start : start + shard_rows].sum()) for start in starts]


def rows_per_shard(samples: int) -> int:
    """Return the number of samples in a shard of a store with so many samples."""
    rows = -(-samples // (_SHARDS * _MIN_SHARD_ROWS)) * _MIN_SHARD_ROWS
    return min(_MAX_SHARD_ROWS, max(_MIN_SHARD_ROWS, rows))


@dataclass(frozen=True)
class EmbedJob:
    """The pass of a teacher over a view set, in shards of consecutive samples.

    It can be pickled and sent to other processes, which load the teacher themselves.

    Attributes:
        packed: folder of the packed images.
        teacher: config by which other processes load the teacher.
        fingerprint: key of the teacher's fingerprint, which must be the same everywhere.
        views: the views to encode.
        batch_size: images that are encoded at once.
        shard_rows: samples per shard.
        reusable: stores whose rows are copied.
        loaded: the teacher if it is loaded in this process; it is never pickled.
        label: name of the work in progress bars.
        on_device: True, since the work runs on a GPU if there is one.
    """

    packed: Path
    teacher: TowerConfig
    fingerprint: str
    views: ViewSet
    batch_size: int
    shard_rows: int
    reusable: ReusableRows = ReusableRows()
    loaded: Teacher | None = field(default=None, repr=False, compare=False)
    label: str = "teacher images"
    on_device: bool = True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "loaded": None}

    @cached_property
    def sizes(self) -> Sequence[int]:
        """Return how many images the teacher must encode for each shard."""
        return images_per_shard(self.views, self.shard_rows, self.reusable)

    def open(self, folder: Path, threads: int) -> Callable[[int], None]:
        """Load the teacher and return the function that writes one shard.

        Raises:
            UserError: this process loads another teacher under the same name.
        """
        teacher = self.loaded or load_same_teacher(
            self.teacher, threads, lambda loaded: loaded.fingerprint, self.fingerprint
        )
        packed = open_packed(self.packed)
        return lambda index: self._write_shard(teacher, packed, folder, index)

    def _write_shard(
        self, teacher: Teacher, packed: PackedImages, folder: Path, index: int
    ) -> None:
        ids = self.views.ids[index * self.shard_rows : (index + 1) * self.shard_rows]
        embeddings = np.zeros((len(ids), self.views.count, teacher.width), np.float16)
        self.reusable.copy_into(embeddings, ids)

        def render_batch(batch: BatchRows) -> tuple[BatchRows, torch.Tensor]:
            rows, view = batch
            return batch, render_for_teacher(teacher, packed, self.views, ids[rows], view)

        batches = Prefetcher(self._missing_batches(ids), render_batch, teacher.device)
        for (rows, view), pixels in batches:
            embeddings[rows, view] = teacher.encode_images(pixels).cpu().numpy()
        _check_norms(embeddings, teacher.name)
        temporary = temporary_path(folder / shard_name(index))
        with temporary.open("wb") as file:
            np.save(file, embeddings)
        record = {"index": index, "rows": len(ids), "views": self.views.count}
        Shards(folder).finish(index, {shard_name(index): temporary}, record)
        packed.release()

    def _missing_batches(self, ids: Ids) -> Iterator[BatchRows]:
        """Yield rows and view of what must be encoded, batch by batch."""
        missing = ~self.reusable.contains(ids, self.views.count)
        for view in range(self.views.count):
            rows = np.flatnonzero(missing[:, view])
            for start in range(0, len(rows), self.batch_size):
                yield rows[start : start + self.batch_size], view


def _check_norms(embeddings: NDArray[np.float16], teacher: str) -> None:
    norms = np.linalg.norm(embeddings.astype(np.float32), axis=2)
    if not (np.abs(norms - 1) < 0.01).all():
        raise UserError(
            f"the teacher {teacher} gave embeddings that are zero or not finite; "
            "try teacher.precision=fp32"
        )


@dataclass(frozen=True)
class EmbedPlan:
    """Decisions of a build, saved with its first shard so that a resumed build repeats them.

    Attributes:
        batch_size: images that are encoded at once.
        shard_rows: samples per shard.
        reused_keys: keys of the stores whose rows are copied.
    """

    batch_size: int
    shard_rows: int
    reused_keys: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the content of the store's `plan.json`."""
        return {
            "batch_size": self.batch_size,
            "shard_rows": self.shard_rows,
            "known": list(self.reused_keys),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "EmbedPlan":
        """Read the content of a store's `plan.json`."""
        return cls(content["batch_size"], content["shard_rows"], tuple(content["known"]))


def embed(  # noqa: PLR0913 - the arguments of `build_once`, and what is built
    teacher: Teacher,
    packed: PackedImages,
    views: ViewSet,
    root: Path,
    progress: Progress = silent,
    run: Runner = in_process,
    *,
    repair: bool = False,
    measure: Callable[[Teacher], Throughput] = measure_throughput,
) -> tuple[Embeddings, int]:
    """Open a store that holds these views; encode first what no store holds.

    Args:
        teacher: the teacher.
        packed: the images.
        views: the views that are needed.
        root: folder of all stores.
        progress: called with the progress of the pass.
        run: runs the shards, in this process or on a cluster.
        repair: rebuild what is damaged in the store of these views, unless another store holds
            them.
        measure: finds the batch size, on the machines that encode.

    Returns:
        The store, which may hold more samples and views than asked for, and how many images the
        teacher encoded for this call: 0 if the store existed.

    Raises:
        UserError: as `build_once`; or the teacher's embeddings are zero or not finite.
    """
    basis = embedding_basis(teacher, packed, views)
    covering = covering_store(root, basis, views)
    if covering is not None:
        return Embeddings(covering), 0
    encoded = 0

    def build(folder: Path) -> dict[str, Any]:
        nonlocal encoded
        np.save(folder / "ids.npy", views.ids)
        found = ReusableRows.find(root, basis, views)

        def decide() -> dict[str, Any]:
            batch_size = measure(teacher).batch_size
            keys = tuple(path.name for path in found.paths)
            return EmbedPlan(batch_size, rows_per_shard(len(views.ids)), keys).to_json()

        plan = EmbedPlan.from_json(load_or_make_plan(folder, decide))
        job = EmbedJob(
            packed=packed.store.path,
            teacher=teacher.config,
            fingerprint=key_of(teacher.fingerprint),
            views=views,
            batch_size=plan.batch_size,
            shard_rows=plan.shard_rows,
            reusable=ReusableRows.from_keys(root, plan.reused_keys),
            loaded=teacher,
        )
        encoded = _run_job(job, folder, run, progress)
        return {
            "samples": len(views.ids),
            "views": views.count,
            "width": teacher.width,
            "dtype": "float16",
            "shard_rows": plan.shard_rows,
            "teacher": teacher.name,
            "teacher_output": teacher.reference_output,
        }

    parts = embedding_parts(teacher, packed, views)
    store = build_once(root, KIND, parts, build, progress, repair)
    return Embeddings(store), encoded


def _run_job(job: EmbedJob, folder: Path, run: Runner, progress: Progress) -> int:
    """Write the missing shards. Returns how many images were encoded."""
    encoded = 0

    def count_encoded(job: Job, shards: Sequence[int], folder: Path) -> Iterator[int]:
        nonlocal encoded
        for index in run(job, shards, folder):
            encoded += job.sizes[index]
            yield index

    for _ in run_shards(job, folder, count_encoded, progress):
        pass
    return encoded


def images_to_encode(teacher: Teacher, packed: PackedImages, views: ViewSet, root: Path) -> int:
    """Return how many images the teacher would have to encode for a missing store.

    Rows of other stores and finished shards do not count.
    """
    path = store_path(root, KIND, embedding_parts(teacher, packed, views))
    saved_plan = read_json(partial_path(path) / PLAN) or read_json(path / PLAN)
    if saved_plan:
        plan = EmbedPlan.from_json(saved_plan)
        shard_rows = plan.shard_rows
        reusable = ReusableRows.from_keys(root, plan.reused_keys)
    else:
        shard_rows = rows_per_shard(len(views.ids))
        reusable = ReusableRows.find(root, embedding_basis(teacher, packed, views), views)
    sizes = images_per_shard(views, shard_rows, reusable)
    finished: int = sum(sizes[record["index"]] for record in finished_shards(path))
    return sum(sizes) - finished

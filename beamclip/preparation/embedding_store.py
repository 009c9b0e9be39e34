"""Build embedding stores: run a teacher over views of packed images, in shards.

A store holds a teacher's fp16 embeddings of `ViewSet.count` views of each sample. No teacher
encodes a view of an image twice: if another finished store of the same teacher, images, recipe and
seed already holds the view, its embedding is copied. A stopped build resumes from its finished
shards.

`beamclip.teachers.embeddings` reads these stores.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

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
from beamclip.teachers.embeddings import (
    KIND,
    SAMPLE_KIND,
    matching_stores,
    open_intact_store,
    shard_name,
)
from beamclip.teachers.loading import load_same_teacher

# A shard is the unit of work: processes take one at a time, and a stopped build repeats only the
# unfinished ones. A shard holds about 1/64 of the samples, at least 64 and at most 4096, in
# multiples of 64.
_SHARDS = 64
_MIN_SHARD_ROWS = 64
_MAX_SHARD_ROWS = 4096
# Folders of stores whose rows can be copied.
_KINDS = (KIND, SAMPLE_KIND)

BatchRows = tuple[Ids, int]
"""One batch: rows of a shard, and the id of the view to encode."""


def embedding_basis(teacher: Teacher, packed: PackedImages, views: ViewSet) -> dict[str, Any]:
    """Return everything but its sample and view ids that an embedding depends on.

    Stores with the same basis can share rows.
    """
    return {"images": packed.key, "teacher": teacher.fingerprint, **views.render_parts()}


def embedding_parts(teacher: Teacher, packed: PackedImages, views: ViewSet) -> dict[str, Any]:
    """Return the key parts of an embedding store: everything its content depends on."""
    return {**embedding_basis(teacher, packed, views), **views.key_parts()}


def render_for_teacher(
    teacher: Teacher, packed: PackedImages, views: ViewSet, ids: Ids, view: int
) -> torch.Tensor:
    """Render one view of some samples for a teacher.

    Args:
        teacher: decides size, normalization and device.
        packed: the packed images.
        views: recipe and seed of the views.
        ids: sample ids, [N].
        view: id of the view.

    Returns:
        Normalized pixels, [N, 3, S, S], on the teacher's device.
    """
    images = torch.from_numpy(packed.read(ids)).to(teacher.device)
    parameters = draw(views.recipe, ids, np.full(len(ids), view), views.seed)
    return render(images, parameters, teacher.pixels)


@dataclass(frozen=True)
class ReusableRows:
    """Rows of finished stores that can be copied instead of encoded again.

    The stores have the same `embedding_basis`, but other samples or another number of views.

    Attributes:
        paths: folders of the stores.
    """

    paths: tuple[Path, ...] = ()

    @classmethod
    def find(cls, root: Path, basis: dict[str, Any], views: ViewSet) -> "ReusableRows":
        """Find all finished stores that hold some of these samples.

        Args:
            root: folder of all stores.
            basis: the `embedding_basis` of the views.
            views: the views that are needed.
        """
        paths = []
        for store in matching_stores(root, basis, _KINDS):
            if np.isin(np.load(store.path / "ids.npy"), views.ids).any():
                paths.append(store.path)
        return cls(tuple(paths))

    @classmethod
    def from_keys(cls, root: Path, keys: Sequence[str]) -> "ReusableRows":
        """Return the stores with these keys, except those that were deleted or damaged since."""
        stores = [open_intact_store(root / kind / key) for key in keys for kind in _KINDS]
        return cls(tuple(store.path for store in stores if store is not None))

    def __getstate__(self) -> dict[str, Any]:
        # Leave out the cached `_stores`: a pickle would contain a copy of their memory maps.
        return {"paths": self.paths}

    @cached_property
    def _stores(self) -> list[Embeddings]:
        return [Embeddings(open_store(path)) for path in self.paths]

    def contains(self, ids: Ids, views: int) -> NDArray[np.bool_]:
        """Return a mask of the views that can be copied, [N, views].

        Args:
            ids: sample ids, [N].
            views: number of views per sample.
        """
        contained = np.zeros((len(ids), views), bool)
        for store in self._stores:
            contained[np.isin(ids, store.ids), : store.views] = True
        return contained

    def copy_into(self, out: NDArray[np.float16], ids: Ids) -> None:
        """Copy the rows that exist into `out`, [N, views, D].

        Args:
            out: array to fill in place. Views that no store holds stay as they are.
            ids: sample ids of the rows of `out`, [N].
        """
        for store in self._stores:
            rows = np.flatnonzero(np.isin(ids, store.ids))
            for view in range(min(store.views, out.shape[1])):
                out[rows, view] = store.gather(ids[rows], view)


def images_per_shard(views: ViewSet, shard_rows: int, reusable: ReusableRows) -> list[int]:
    """Return how many images the teacher must encode for each shard.

    Args:
        views: the views of the store.
        shard_rows: samples per shard.
        reusable: stores whose rows are copied.
    """
    missing = (~reusable.contains(views.ids, views.count)).sum(axis=1)
    starts = range(0, len(views.ids), shard_rows)
    return [int(missing[start : start + shard_rows].sum()) for start in starts]


def rows_per_shard(samples: int) -> int:
    """Return how many samples each shard holds in a store of `samples` samples."""
    multiples = math.ceil(samples / (_SHARDS * _MIN_SHARD_ROWS))
    rows = multiples * _MIN_SHARD_ROWS
    return min(_MAX_SHARD_ROWS, max(_MIN_SHARD_ROWS, rows))


@dataclass(frozen=True)
class EmbedJob:
    """The pass of a teacher over a view set, in shards of consecutive samples.

    It can be pickled and sent to other processes, which load the teacher themselves.

    Attributes:
        packed: folder of the packed images.
        teacher: config by which other processes load the teacher.
        fingerprint: key of the teacher's fingerprint. All processes must load the same teacher.
        views: the views to encode.
        batch_size: number of images to encode at once.
        shard_rows: samples per shard.
        reusable: stores whose rows are copied.
        loaded: the teacher, if this process has loaded it. It is never pickled.
        label: name of the work in progress bars.
        on_device: always True: use a GPU if there is one.
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

        Args:
            folder: folder of the store.
            threads: number of torch threads if there is no GPU.

        Returns:
            A function that takes the index of a shard and writes it.

        Raises:
            UserError: this node has other weights under the teacher's name.
        """
        teacher = self.loaded or load_same_teacher(
            self.teacher, threads, lambda loaded: loaded.fingerprint, self.fingerprint
        )
        packed = open_packed(self.packed)
        return lambda index: self._write_shard(teacher, packed, folder, index)

    def _write_shard(
        self, teacher: Teacher, packed: PackedImages, folder: Path, index: int
    ) -> None:
        start = index * self.shard_rows
        ids = self.views.ids[start : start + self.shard_rows]
        embeddings = np.zeros((len(ids), self.views.count, teacher.width), np.float16)
        self.reusable.copy_into(embeddings, ids)

        def render_batch(batch: BatchRows) -> tuple[BatchRows, torch.Tensor]:
            rows, view = batch
            return batch, render_for_teacher(teacher, packed, self.views, ids[rows], view)

        # The next batches are rendered while the teacher encodes this one.
        batches = Prefetcher(self._missing_batches(ids), render_batch, teacher.device)
        for (rows, view), pixels in batches:
            embeddings[rows, view] = teacher.encode_images(pixels).cpu().numpy()
        _check_norms(embeddings, teacher.name)
        # `Shards.finish` renames the file, so a reader never sees half a shard.
        # `np.save` gets an open file, since it would append ".npy" to the temporary name.
        temporary = temporary_path(folder / shard_name(index))
        with temporary.open("wb") as file:
            np.save(file, embeddings)
        record = {"index": index, "rows": len(ids), "views": self.views.count}
        Shards(folder).finish(index, {shard_name(index): temporary}, record)
        packed.release()

    def _missing_batches(self, ids: Ids) -> Iterator[BatchRows]:
        """Yield the views of a shard that must be encoded, in batches of one view each."""
        missing = ~self.reusable.contains(ids, self.views.count)
        for view in range(self.views.count):
            rows = np.flatnonzero(missing[:, view])
            for start in range(0, len(rows), self.batch_size):
                yield rows[start : start + self.batch_size], view


def _check_norms(embeddings: NDArray[np.float16], teacher: str) -> None:
    """Raise UserError unless all embeddings have unit length, up to the rounding to fp16."""
    norms = np.linalg.norm(embeddings.astype(np.float32), axis=2)
    # Written so that NaN fails too: every comparison with NaN is False.
    if not (np.abs(norms - 1) < 0.01).all():
        raise UserError(
            f"the teacher {teacher} gave embeddings that are zero or not finite; "
            "try teacher.precision=fp32"
        )


@dataclass(frozen=True)
class EmbedPlan:
    """Decisions of a build. They are saved before its first shard, and a resumed build reads them.

    Attributes:
        batch_size: number of images to encode at once.
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
            # The key that earlier versions wrote; a build that they began can be resumed.
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
    kind: Literal["embeddings", "samples"] = "embeddings",
) -> tuple[Embeddings, int]:
    """Open a store that holds these views. Views that no store holds are encoded first.

    Args:
        teacher: the teacher.
        packed: the packed images.
        views: the views that are needed.
        root: folder of all stores.
        progress: called with the progress of the pass.
        run: runs the shards, in this process or on a cluster.
        repair: rebuild what is damaged in the store of these views, unless another intact store
            holds them.
        measure: finds the batch size, on the machines that encode.
        kind: `samples` for a few images that are encoded before the passes they are part of. A pass
            copies their embeddings but never takes their store for its own.

    Returns:
        A tuple of the store and the number of images that the teacher encoded in this call. The
        store may hold more samples and views than asked for. The number is 0 if the store existed.

    Raises:
        UserError: see `build_once`; or the teacher's embeddings are zero or not finite.
    """
    # A store of more samples or views serves as well, and saves the whole pass.
    basis = embedding_basis(teacher, packed, views)
    covering = covering_store(root, basis, views, _KINDS if kind == SAMPLE_KIND else (KIND,))
    if covering is not None:
        return Embeddings(covering), 0
    encoded = 0

    def build(folder: Path) -> dict[str, Any]:
        nonlocal encoded
        np.save(folder / "ids.npy", views.ids)

        def make_plan() -> dict[str, Any]:
            reusable = ReusableRows.find(root, basis, views)
            plan = EmbedPlan(
                batch_size=measure(teacher).batch_size,
                shard_rows=rows_per_shard(len(views.ids)),
                reused_keys=tuple(path.name for path in reusable.paths),
            )
            return plan.to_json()

        # A resumed build must cut the same shards, and count on the same stores for their sizes.
        plan = EmbedPlan.from_json(load_or_make_plan(folder, make_plan))
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
    store = build_once(root, kind, parts, build, progress, repair)
    return Embeddings(store), encoded


def _run_job(job: EmbedJob, folder: Path, run: Runner, progress: Progress) -> int:
    """Write the missing shards and return how many images were encoded for them."""
    encoded = 0

    # Count in the runner, which gets only the missing shards. `run_shards` also yields the records
    # of shards that a stopped build had finished.
    def count_encoded(job: Job, shards: Sequence[int], folder: Path) -> Iterator[int]:
        nonlocal encoded
        for index in run(job, shards, folder):
            encoded += job.sizes[index]
            yield index

    for _ in run_shards(job, folder, count_encoded, progress):
        pass
    return encoded


def images_to_encode(teacher: Teacher, packed: PackedImages, views: ViewSet, root: Path) -> int:
    """Return how many images the teacher would have to encode to build a store.

    Views that another store holds and finished shards of a stopped build do not count.
    """
    path = store_path(root, KIND, embedding_parts(teacher, packed, views))
    # The plan is in the partial store of a stopped build, or in a damaged store to be repaired.
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

"""Building embedding stores."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beamclip.data.packed import PackedImages
from beamclip.stores import (
    PLAN,
    Job,
    Progress,
    Runner,
    build_once,
    in_process,
    kept_shards,
    key_of,
    partial_path,
    planned,
    read_json,
    run_shards,
    silent,
    store_path,
)
from beamclip.teachers.embeddings import KIND, Embeddings, covering_store
from beamclip.teachers.encoding import EmbedJob, sizes_of
from beamclip.teachers.known import Known
from beamclip.teachers.pace import Pace, find_pace
from beamclip.teachers.tower import Teacher
from beamclip.teachers.views import ViewSet

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
    pace: Callable[[Teacher], Pace] = find_pace,
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
    teacher: Teacher, packed: PackedImages, views: ViewSet, folder: Path, progress: Progress, run: Runner, pace: Callable[[Teacher], Pace]
) -> tuple[dict[str, Any], int]:
    np.save(folder / "ids.npy", views.ids)
    root = folder.parents[1]
    known = Known.beside(root, basis_of(teacher, packed, views), views)
    plan = planned(folder, lambda: _plan(pace(teacher).batch_size, views, known))
    rows, known = plan["shard_rows"], Known.named(root, plan["known"])
    job = EmbedJob(packed.store.path, teacher.config, key_of(teacher.fingerprint), views, plan["batch_size"], rows, known, teacher)
    encoded = 0

    def counting(job: Job, shards: Sequence[int], folder: Path) -> Iterator[int]:
        nonlocal encoded
        for index in run(job, shards, folder):
            encoded += job.sizes[index]
            yield index

    for _ in run_shards(job, folder, counting, progress):
        pass
    shape = {"samples": len(views.ids), "views": views.count, "width": teacher.width, "dtype": "float16", "shard_rows": rows}
    return {**shape, "teacher": teacher.name, "teacher_output": teacher.probe_output}, encoded


def _plan(batch_size: int, views: ViewSet, known: Known) -> dict[str, Any]:
    return {"batch_size": batch_size, "shard_rows": shard_rows(len(views.ids)), "known": [path.name for path in known.paths]}


def images_left(teacher: Teacher, packed: PackedImages, views: ViewSet, root: Path) -> int:
    """Images that the teacher would have to see for a store that is not there: without rows of other stores and finished shards."""
    path = store_path(root, KIND, parts_of(teacher, packed, views))
    plan = read_json(partial_path(path) / PLAN) or read_json(path / PLAN)
    known = Known.named(root, plan["known"]) if plan else Known.beside(root, basis_of(teacher, packed, views), views)
    sizes = sizes_of(views, plan["shard_rows"] if plan else shard_rows(len(views.ids)), known)
    left: int = sum(sizes) - sum(sizes[record["index"]] for record in kept_shards(path))
    return left

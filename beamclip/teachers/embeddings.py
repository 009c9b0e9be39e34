"""The embedding store: what the teacher says of each view of each sample, computed once.

Rows are keyed by sample id, columns by view id: an embedding belongs to a view, never to a position in some order.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from beamclip.config import RECIPES, Recipe, UserError
from beamclip.data.draw import draw
from beamclip.data.packed import PackedImages
from beamclip.data.views import render
from beamclip.stores import Progress, Shards, Store, build_once, silent
from beamclip.teachers.tower import Teacher

SHARD_ROWS = 8192
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class ViewSet:
    """Which views an embedding store holds: `count` views of a recipe, drawn with a seed, of these samples."""

    ids: Ids
    recipe: Recipe
    count: int
    seed: int

    @classmethod
    def center(cls, ids: Ids) -> "ViewSet":
        """The canonical view of each sample."""
        return cls(ids, RECIPES["center"], 1, 0)

    def parts(self) -> dict[str, Any]:
        """What of it goes into a store's key. A view that is not random depends on no seed."""
        ids = np.ascontiguousarray(self.ids, dtype="<i8")
        seed = self.seed if self.recipe.random else 0
        return {"ids": _digest(ids), "samples": len(ids), "recipe": self.recipe.model_dump(mode="json"), "views": self.count, "seed": seed}


class Embeddings:
    """A finished embedding store, memory-mapped."""

    def __init__(self, store: Store) -> None:
        self.key = store.key
        self.width = int(store.manifest["width"])
        self.views = int(store.manifest["views"])
        self.ids: Ids = np.load(store.file("ids.npy"), mmap_mode="r")
        self._shard_rows = int(store.manifest["shard_rows"])
        count = -(-len(self.ids) // self._shard_rows)
        self._shards = [np.load(store.file(_shard(i)), mmap_mode="r") for i in range(count)]

    def gather(self, ids: Ids, view: int) -> NDArray[np.float32]:
        """Embeddings of one view of these samples, [N, D] float32, unit length up to fp16. Views repeat after `self.views`.

        Raises:
            ValueError: a sample is not in the store.
        """
        rows = np.searchsorted(self.ids, ids)
        if (rows == len(self.ids)).any() or (self.ids[rows] != ids).any():
            raise ValueError("a sample id is not in the embedding store")
        out = np.empty((len(ids), self.width), np.float32)
        shards, places = np.divmod(rows, self._shard_rows)
        for shard in np.unique(shards):
            here = shards == shard
            out[here] = self._shards[shard][places[here], view % self.views]
        return out


def embed(
    teacher: Teacher, packed: PackedImages, views: ViewSet, root: Path, batch_size: int, progress: Progress = silent
) -> tuple[Embeddings, int]:
    """Open the store of these views, running the teacher over what is missing.

    Returns:
        The store, and how many images the teacher encoded for this call: 0 where the store was there.
    """
    encoded = 0

    def build(folder: Path) -> dict[str, Any]:
        nonlocal encoded
        np.save(folder / "ids.npy", views.ids)
        shards = Shards(folder)
        for index, start in enumerate(range(0, len(views.ids), SHARD_ROWS)):
            rows = slice(start, start + SHARD_ROWS)
            if not shards.is_finished(_shard(index)):
                encoded += _write_shard(teacher, packed, views, rows, folder / "shard.tmp.npy", batch_size, progress)
                shards.finish(_shard(index), folder / "shard.tmp.npy")
        shape = {"samples": len(views.ids), "views": views.count, "width": teacher.width, "dtype": "float16", "shard_rows": SHARD_ROWS}
        return {**shape, "teacher": teacher.name, "teacher_output": teacher.probe_output}

    parts = {"images": packed.key, "teacher": teacher.fingerprint, **views.parts()}
    return Embeddings(build_once(root, "embeddings", parts, build)), encoded


def _write_shard(
    teacher: Teacher, packed: PackedImages, views: ViewSet, rows: slice, path: Path, batch_size: int, progress: Progress
) -> int:
    ids = views.ids[rows]
    out = np.zeros((len(ids), views.count, teacher.width), np.float16)
    total, before = len(views.ids) * views.count, rows.start * views.count
    for view in range(views.count):
        for start in range(0, len(ids), batch_size):
            batch = ids[start : start + batch_size]
            out[start : start + batch_size, view] = _encode(teacher, packed, views, batch, view)
            progress("teacher", min(before + view * len(ids) + start + len(batch), total), total)
    norms = np.linalg.norm(out.astype(np.float32), axis=2)
    if not (np.abs(norms - 1) < 0.01).all():
        raise UserError(f"the teacher {teacher.name} gave embeddings that are zero or not finite; try teacher.precision=fp32")
    np.save(path, out)
    return len(ids) * views.count


def _encode(teacher: Teacher, packed: PackedImages, views: ViewSet, ids: Ids, view: int) -> NDArray[np.float16]:
    images = torch.from_numpy(packed.read(ids)).to(teacher.device)
    parameters = draw(views.recipe, ids, np.full(len(ids), view), views.seed)
    embeddings = teacher.encode_images(render(images, parameters, teacher.pixels))
    return embeddings.cpu().numpy().astype(np.float16)


def _shard(index: int) -> str:
    return f"rows-{index:05d}.npy"


def _digest(ids: Ids) -> str:
    return hashlib.sha256(ids.tobytes()).hexdigest()[:16]

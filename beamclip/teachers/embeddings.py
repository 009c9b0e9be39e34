"""The embedding store, read: what the teacher says of each view of each sample, computed once.

Rows are keyed by sample id, columns by view id: an embedding belongs to a view, never to a position in some order.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamclip.config import RECIPES, Recipe
from beamclip.data.augmentation.render import RENDER_VERSION
from beamclip.stores import Store, StoreDamaged, open_store, read_json

# Which views an embedding store holds.


Ids = NDArray[np.int64]


@dataclass(frozen=True)
class ViewSet:
    """Views 0 to `count` of a recipe, drawn with a seed, of these samples (sorted ids)."""

    ids: Ids
    recipe: Recipe
    count: int
    seed: int

    @classmethod
    def center(cls, ids: Ids) -> "ViewSet":
        """The canonical view of each sample."""
        return cls(ids, RECIPES["center"], 1, 0)

    def drawn(self) -> dict[str, Any]:
        """What decides how a view looks. One that is not random depends on no seed."""
        seed = self.seed if self.recipe.random else 0
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "seed": seed,
            "render": RENDER_VERSION,
        }

    def parts(self) -> dict[str, Any]:
        """What of it goes into a store's key."""
        ids = np.ascontiguousarray(self.ids, dtype="<i8")
        return {
            "ids": hashlib.sha256(ids.tobytes()).hexdigest()[:16],
            "samples": len(ids),
            "views": self.count,
            **self.drawn(),
        }

    @property
    def images(self) -> int:
        """Views in all."""
        return len(self.ids) * self.count

    def joined(self, other: "ViewSet") -> "ViewSet":
        """The views of both, for two sets that are drawn alike."""
        assert self.drawn() == other.drawn()
        return ViewSet(
            np.union1d(self.ids, other.ids), self.recipe, max(self.count, other.count), self.seed
        )


KIND = "embeddings"


def shard_name(index: int) -> str:
    """An .npy file, float16 [rows, views, width]."""
    return f"rows-{index:05d}.npy"


class Embeddings:
    """A finished embedding store, memory-mapped."""

    def __init__(self, store: Store) -> None:
        self.store, self.key = store, store.key
        self.width = int(store.manifest["width"])
        self.views = int(store.manifest["views"])
        self.ids: Ids = np.load(store.file("ids.npy"), mmap_mode="r")
        self._shard_rows = int(store.manifest["shard_rows"])
        count = -(-len(self.ids) // self._shard_rows)
        self._shards = [
            np.load(store.file(shard_name(i)), mmap_mode="r").view(np.ndarray) for i in range(count)
        ]

    @property
    def bytes(self) -> int:
        """Size of the embeddings in memory."""
        return len(self.ids) * self.views * self.width * 2

    def rows_of(self, ids: Ids) -> Ids:
        """The rows of these samples, [N].

        Raises:
            ValueError: a sample is not in the store.
        """
        rows = np.searchsorted(self.ids, ids)
        if (rows == len(self.ids)).any() or (self.ids[rows] != ids).any():
            raise ValueError("a sample id is not in the embedding store")
        return rows

    def gather(self, ids: Ids, view: int) -> NDArray[np.float32]:
        """Embeddings of one view of these samples, [N, D] float32, unit length up to fp16.

        Raises:
            ValueError: a sample or view is not in the store.
        """
        if not 0 <= view < self.views:
            raise ValueError(
                f"view {view} is not in the embedding store, which has {self.views} of each sample"
            )
        rows = self.rows_of(ids)
        out = np.empty((len(ids), self.width), np.float32)
        shards, places = np.divmod(rows, self._shard_rows)
        for shard in np.unique(shards):
            here = shards == shard
            out[here] = self._shards[shard][places[here], view]
        return out

    def all(self) -> NDArray[np.float16]:
        """The whole store, [samples, views, D]."""
        return np.concatenate(self._shards)


def covering_store(root: Path, basis: dict[str, Any], views: ViewSet) -> Store | None:
    """A finished store with these views and perhaps more: then nothing needs to be encoded again.

    Args:
        basis: what the store must depend on beside ids and number of views: images, teacher, recipe and seed.
    """
    for store in stores_like(root, basis, len(views.ids), views.count):
        if np.isin(views.ids, np.load(store.file("ids.npy"), mmap_mode="r")).all():
            return store
    return None


def stores_like(
    root: Path, basis: dict[str, Any], samples: int = 0, views: int = 0
) -> Iterator[Store]:
    """Finished and whole stores on the same basis, with at least so many samples and views of each."""
    for manifest_path in sorted((root / KIND).glob("*/manifest.json")):
        parts = (read_json(manifest_path) or {}).get("parts", {})
        rest = {
            key: value for key, value in parts.items() if key not in ("ids", "samples", "views")
        }
        if rest == basis and parts["samples"] >= samples and parts["views"] >= views:
            store = if_good(manifest_path.parent)
            if store is not None:
                yield store


def some_store(root: Path, images: str, teacher: dict[str, Any]) -> Store | None:
    """The finished store with the most samples of these images and this teacher, whatever the views.

    Args:
        images: key of the packed images.
        teacher: the teacher's fingerprint.
    """
    found = []
    for manifest_path in (root / KIND).glob("*/manifest.json"):
        parts = (read_json(manifest_path) or {}).get("parts", {})
        if (parts.get("images"), parts.get("teacher")) == (images, teacher):
            found.append((parts["samples"], manifest_path.parent))
    return next(filter(None, (if_good(path) for _, path in sorted(found, reverse=True))), None)


def if_good(path: Path) -> Store | None:
    """A finished store, None where there is none or it is damaged: for those that would only help another."""
    try:
        return open_store(path)
    except StoreDamaged:
        return None

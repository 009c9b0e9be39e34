"""Read embedding stores: a teacher's embeddings of every view of every sample, computed once.

A row is a sample id and a column is a view id, so an embedding is found by what it shows, never by
its position in some order. `beamclip.preparation.embedding_store` writes these stores.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamclip.config import RECIPES, Recipe
from beamclip.data.augmentation.render import RENDER_VERSION
from beamclip.data.packed import Ids
from beamclip.stores import Store, StoreDamaged, open_store, read_json

KIND = "embeddings"
"""Name of the folder that holds these stores."""
SAMPLE_KIND = "samples"
"""Name of the folder with the stores of a few images, which are encoded before the passes."""


@dataclass(frozen=True)
class ViewSet:
    """The views 0 to `count` - 1 of a set of samples.

    Attributes:
        ids: sample ids, sorted, int64 [N].
        recipe: the distribution that the views are sampled from.
        count: number of views per sample.
        seed: seed of the views.
    """

    ids: Ids
    recipe: Recipe
    count: int
    seed: int

    @classmethod
    def center(cls, ids: Ids) -> "ViewSet":
        """Return the canonical (center crop) view of each sample."""
        return cls(ids, RECIPES["center"], 1, 0)

    def render_parts(self) -> dict[str, Any]:
        """Return the fields that decide what a view looks like: recipe, seed, renderer version.

        The seed is 0 for a recipe that is not random, so that all seeds share one store.
        """
        return {
            "recipe": self.recipe.key_parts(),
            "seed": self.seed if self.recipe.random else 0,
            "render": RENDER_VERSION,
        }

    def key_parts(self) -> dict[str, Any]:
        """Return the fields that make up the store's cache key."""
        # Little-endian, so that the hash is the same on every machine.
        ids = np.ascontiguousarray(self.ids, dtype="<i8")
        return {
            "ids": hashlib.sha256(ids.tobytes()).hexdigest()[:16],
            "samples": len(ids),
            "views": self.count,
            **self.render_parts(),
        }

    @property
    def images(self) -> int:
        """Return the number of rendered images: samples times views."""
        return len(self.ids) * self.count

    def union(self, other: "ViewSet") -> "ViewSet":
        """Return the set of the samples of both sets, with the larger number of views.

        Both sets must have the same recipe and seed.
        """
        assert self.render_parts() == other.render_parts()
        ids = np.union1d(self.ids, other.ids)
        return ViewSet(ids, self.recipe, max(self.count, other.count), self.seed)


def shard_name(index: int) -> str:
    """Return the file name of a shard, an .npy file of float16 [rows, views, D]."""
    return f"rows-{index:05d}.npy"


class Embeddings:
    """Memory-mapped reader of a finished embedding store.

    Attributes:
        store: the store on disk.
        key: its key.
        width: D, the teacher's embedding width.
        views: views per sample.
        ids: ids of the stored samples, sorted, int64 [N].
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.key = store.key
        self.width = int(store.manifest["width"])
        self.views = int(store.manifest["views"])
        self.ids: Ids = np.load(store.file("ids.npy"), mmap_mode="r")
        self._shard_rows = int(store.manifest["shard_rows"])
        shard_count = math.ceil(len(self.ids) / self._shard_rows)
        # As plain arrays: each slice of an `np.memmap` is another memmap, which is slower to make.
        self._shards = [
            np.load(store.file(shard_name(index)), mmap_mode="r").view(np.ndarray)
            for index in range(shard_count)
        ]

    @property
    def bytes(self) -> int:
        """Return the size of all embeddings in memory, in bytes. A float16 has 2."""
        return len(self.ids) * self.views * self.width * 2

    def rows_of(self, ids: Ids) -> Ids:
        """Return the row of each sample in the store, int64 [N].

        Args:
            ids: sample ids in any order, int64 [N].

        Raises:
            ValueError: a sample is not in the store.
        """
        rows = np.searchsorted(self.ids, ids)
        # For an id above all stored ones, this is the row after the last.
        if (rows == len(self.ids)).any() or (self.ids[rows] != ids).any():
            raise ValueError("a sample id is not in the embedding store")
        return rows

    def gather(self, ids: Ids, view: int) -> NDArray[np.float32]:
        """Return the embeddings of one view of these samples.

        Args:
            ids: sample ids in any order, possibly repeated, int64 [N].
            view: view id, from 0.

        Returns:
            The embeddings in the order of `ids`, float32 [N, D]. Their length is 1, up to the
            rounding of the stored float16.

        Raises:
            ValueError: a sample or the view is not in the store.
        """
        if not 0 <= view < self.views:
            raise ValueError(
                f"view {view} is not in the embedding store, which has {self.views} of each sample"
            )
        rows = self.rows_of(ids)
        embeddings = np.empty((len(ids), self.width), np.float32)
        shard_of_row, row_in_shard = np.divmod(rows, self._shard_rows)
        # One read of each shard, for all its rows together.
        for shard in np.unique(shard_of_row):
            in_shard = shard_of_row == shard
            embeddings[in_shard] = self._shards[shard][row_in_shard[in_shard], view]
        return embeddings

    def all(self) -> NDArray[np.float16]:
        """Load all embeddings into memory, float16 [N, views, D]."""
        return np.concatenate(self._shards)


def covering_store(
    root: Path, basis: dict[str, Any], views: ViewSet, kinds: Sequence[str] = (KIND,)
) -> Store | None:
    """Return an intact store that contains all these views, or None.

    The store may contain more samples and views. With such a store, nothing needs to be encoded.

    Args:
        root: folder of all stores.
        basis: all parts of the store's key except ids, samples and views: images, teacher, recipe,
            seed and renderer.
        views: the samples and views that are needed.
        kinds: folders to look in.
    """
    for store in matching_stores(root, basis, kinds):
        parts = store.manifest["parts"]
        if parts["samples"] < len(views.ids) or parts["views"] < views.count:
            continue
        stored_ids = np.load(store.file("ids.npy"), mmap_mode="r")
        if np.isin(views.ids, stored_ids).all():
            return store
    return None


def matching_stores(
    root: Path, basis: dict[str, Any], kinds: Sequence[str] = (KIND,)
) -> Iterator[Store]:
    """Yield the intact stores with the same basis.

    Args:
        root: folder of all stores.
        basis: all parts of the store's key except ids, samples and views.
        kinds: folders to look in.
    """
    for kind in kinds:
        for manifest_path in sorted((root / kind).glob("*/manifest.json")):
            parts = _key_parts_in(manifest_path)
            stored_basis = {
                name: value
                for name, value in parts.items()
                if name not in ("ids", "samples", "views")
            }
            if stored_basis != basis:
                continue
            store = open_intact_store(manifest_path.parent)
            if store is not None:
                yield store


def largest_store(root: Path, images: str, teacher: dict[str, Any]) -> Store | None:
    """Return the intact store with the most samples of these images and this teacher, or None.

    Its recipe, seed and number of views may be any.

    Args:
        root: folder of all stores.
        images: key of the packed images.
        teacher: the teacher's fingerprint.
    """
    candidates: list[tuple[int, Path]] = []
    for manifest_path in (root / KIND).glob("*/manifest.json"):
        parts = _key_parts_in(manifest_path)
        if parts.get("images") == images and parts.get("teacher") == teacher:
            candidates.append((parts["samples"], manifest_path.parent))
    # The largest may be damaged; then the next one serves.
    for _, path in sorted(candidates, reverse=True):
        store = open_intact_store(path)
        if store is not None:
            return store
    return None


def has_embeddings(root: Path, images: str, teacher: str) -> bool:
    """Return True if a teacher of this name has encoded any of these images.

    A name does not identify a teacher, but unlike `largest_store` this needs no loaded one.

    Args:
        root: folder of all stores.
        images: key of the packed images.
        teacher: the teacher's name.
    """
    for manifest_path in (root / KIND).glob("*/manifest.json"):
        manifest = read_json(manifest_path) or {}
        same_images = manifest.get("parts", {}).get("images") == images
        if same_images and manifest.get("teacher") == teacher:
            return True
    return False


def open_intact_store(path: Path) -> Store | None:
    """Open a finished store, or return None if it is missing or damaged.

    Use it only for stores that can be replaced. Open a store that is needed with `open_store`,
    which reports the damage.
    """
    try:
        return open_store(path)
    except StoreDamaged:
        return None


def _key_parts_in(manifest_path: Path) -> dict[str, Any]:
    """Return the parts of a store's key; empty if the manifest is missing or can't be read."""
    manifest = read_json(manifest_path) or {}
    parts: dict[str, Any] = manifest.get("parts", {})
    return parts

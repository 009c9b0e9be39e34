"""Read the packed images of one data set by sample id."""

import csv
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamclip.data.base import digest
from beamclip.data.image_shards import JpegShardReader, RawShardReader, ShardReader
from beamclip.stores import Store, open_store

KIND = "packed"
Ids = NDArray[np.int64]


class PackedImages:
    """An open packed store. A sample's id is its row: train first, then test.

    Shards are memory-mapped, so all workers and trials on a machine share the pages they read.
    Pickling sends the path, not the pixels; workers must see the same folder.

    Attributes:
        store: the store's folder and manifest.
        image_size: side of the images in px.
        encoding: `raw` or `jpeg`.
        rows: number of images in each split.
        names: class names at the time of packing. They may have been corrected since, without
            packing again; the source has the present ones.
        classes: number of classes.
        labels: class of each image, int64 [N].
        groups: group of each image, int64 [N]; None if the source has none.
        key: key of the images. It changes with everything that pixels, labels and ids depend on.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        manifest = store.manifest
        self.image_size: int = manifest["image_size"]
        self.encoding: str = manifest["encoding"]
        self.rows: dict[str, int] = manifest["rows"]
        self.names: tuple[str, ...] = tuple(manifest["classes"]["names"])
        self.classes = len(self.names)
        self.labels: Ids = np.load(store.file("labels.npy"))
        groups = store.file("groups.npy")
        self.groups: Ids | None = np.load(groups) if groups.exists() else None
        # First row of each shard, and the number of all rows.
        self._starts = np.cumsum([0, *manifest["shards"]])
        left_out = [name for name, _ in self.bad] if manifest["bad"] else []
        self.key = _key(store.key, left_out)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_packed, (self.store.path,)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def _shards(self) -> list[ShardReader]:
        reader = RawShardReader if self.encoding == "raw" else JpegShardReader
        indices = range(len(self._starts) - 1)
        return [reader(self.store.path, index, self.image_size) for index in indices]

    @property
    def train_ids(self) -> Ids:
        """Ids of the source's train split, from which `split` takes val."""
        return np.arange(self.rows["train"], dtype=np.int64)

    @property
    def test_ids(self) -> Ids:
        """Ids of the test split."""
        return np.arange(self.rows["train"], len(self), dtype=np.int64)

    @property
    def bad(self) -> list[tuple[str, str]]:
        """Name and reason of each image that was left out."""
        with self.store.file("bad.csv").open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            # Skip the header.
            next(rows, None)
            return [(name, reason) for name, reason in rows]

    @property
    def flat(self) -> list[str]:
        """Names of the packed images whose values span fewer than 16 levels of 256.

        Empty also for stores of an older version, which did not look for them.
        """
        if not self.store.manifest.get("flat"):
            return []
        with self.store.file("flat.csv").open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            # Skip the header.
            next(rows, None)
            return [name for (name,) in rows]

    def read(self, ids: Ids) -> NDArray[np.uint8]:
        """Return a copy of the pixels of some samples, in the order of their ids.

        Args:
            ids: sample ids, [B].

        Returns:
            uint8 [B, S, S, 3].

        Raises:
            IndexError: an id is negative or not in the store.
        """
        # NumPy would take a negative id from the end, which hides a mistake.
        if len(ids) and not (ids.min() >= 0 and ids.max() < len(self)):
            raise IndexError(
                f"sample ids {ids.min()} to {ids.max()} are not all in 0 to {len(self) - 1}"
            )
        out = np.empty((len(ids), self.image_size, self.image_size, 3), np.uint8)
        shards = np.searchsorted(self._starts, ids, side="right") - 1
        for shard in np.unique(shards):
            positions = np.flatnonzero(shards == shard)
            rows = ids[positions] - self._starts[shard]
            self._shards[shard].read(rows, out, positions)
        return out

    def release(self) -> None:
        """Release the memory pages read so far.

        A pass over all images would otherwise hold all of them in memory at its end.
        """
        for shard in self._shards:
            shard.release()


def _key(store: str, left_out: list[str]) -> str:
    """Return the key of the images: the store's key, and a hash of which images were left out.

    If an image becomes readable later (another Pillow, a repaired shard), a store with the same key
    is built with other sample ids. Embeddings of the old ids must not be used for the new ones.
    """
    return f"{store}-{digest(left_out)[:8]}" if left_out else store


def open_packed(path: Path) -> PackedImages:
    """Open a packed store by its folder.

    Raises:
        UserError: the store is missing or damaged; see `open_store`.
    """
    return PackedImages(open_store(path))

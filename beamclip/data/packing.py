"""Pack images: decode each image of a source once and keep its central square in a store.

The store is written in shards. `PackJob` knows which items belong to each shard, and writes one.
`pack` runs the job, in this process or on a cluster, and then writes the files that describe the
whole store: labels, groups and the list of unreadable images.
"""

import csv
import io
import math
import re
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beamclip.config import DataConfig, UserError
from beamclip.data.base import SPLITS, Item, Source, Split
from beamclip.data.decode import RESIZE_VERSION, load_square_rgb
from beamclip.data.files import LazyBytes
from beamclip.data.gray import FULL_RANGE, GrayRange, gray_range
from beamclip.data.image_shards import JpegShardWriter, RawShardWriter
from beamclip.data.packed import KIND, PackedImages
from beamclip.data.sources.open import open_source
from beamclip.stores import (
    Progress,
    Runner,
    Shards,
    build_once,
    finished_shards,
    in_process,
    load_or_make_plan,
    run_shards,
    silent,
    store_path,
)

Bad = tuple[str, str]
"""Name of an image and the reason why it can't be used."""
Row = NDArray[np.uint8] | bytes
"""An image as it is stored: pixels [S, S, 3], or a JPEG file."""


class EncodedRow(NamedTuple):
    """An image as it is stored, and whether it is nearly one color."""

    data: Row
    flat: bool


T = TypeVar("T")
R = TypeVar("R")

_SHARD_BYTES = 64 * 2**20
"""Most bytes of a shard, counted as raw pixels."""
_MIN_SHARD_IMAGES = 64
_MIN_SHARDS = 64
"""Number of shards to aim for if there are enough images: many processes can then share the work,
and the progress bar moves."""
_SAMPLE = 16
"""Images of each split on which the cost of packing is measured."""
_FLAT_LEVELS = 16
"""An image whose values span fewer levels of 256 is counted as flat. Many such images are a sign of
a wrong range: 12 bits in a 16-bit color file come out as 0 to 15."""


@dataclass(frozen=True)
class PackJob:
    """All items of a source, in shards of adjacent items. No shard holds items of two splits.

    Attributes:
        source: the images.
        config: how they are stored.
        spans: (split, first item, item after the last) of each shard.
        gray: the range of gray images with more than 8 bits a pixel.
        label: label of the progress bar.
        on_device: False, because packing uses CPU cores and no GPU.
    """

    source: Source
    config: DataConfig
    spans: tuple[tuple[Split, int, int], ...]
    gray: GrayRange = FULL_RANGE
    label: str = "packing images"
    on_device: bool = False

    @classmethod
    def over(cls, source: Source, config: DataConfig, images: int) -> "PackJob":
        """Return the job over all items, with `images` items in each shard."""
        spans: list[tuple[Split, int, int]] = []
        for split in SPLITS:
            count = source.count(split)
            for start in range(0, count, images):
                spans.append((split, start, min(start + images, count)))
        return cls(source, config, tuple(spans), gray_range(source, config))

    @property
    def sizes(self) -> Sequence[int]:
        """Number of images in each shard, unreadable ones included."""
        return [stop - start for _, start, stop in self.spans]

    def open(self, folder: Path, threads: int) -> Callable[[int], None]:
        """Return the function that packs one shard, given its number.

        Two threads may call it: one decodes while the other waits for the disk.

        Args:
            folder: folder of the store.
            threads: number of threads that decode.
        """
        # A pool lets reading and decoding overlap. With one thread and local files it would only
        # pass each image back and forth.
        is_remote = "://" in (self.config.path or "")
        pool = ThreadPoolExecutor(threads) if threads > 1 or is_remote else None
        decoding = Lock()

        def write(index: int) -> None:
            # Finishing a shard, which hashes and flushes it, is done outside the lock. So another
            # thread can decode the next shard meanwhile.
            with decoding:
                files, record = self._write(folder, index, pool)
            Shards(folder).finish(index, files, record)

        return write

    def _write(
        self, folder: Path, index: int, pool: ThreadPoolExecutor | None
    ) -> tuple[dict[str, Path], dict[str, Any]]:
        """Write a shard's files under temporary names.

        Returns:
            Temporary files by their final names, and the shard's record.
        """
        split, start, stop = self.spans[index]
        labels: list[int] = []
        packed: list[int] = []
        bad: list[Bad] = []
        flat: list[str] = []
        writer_class = RawShardWriter if self.config.encoding == "raw" else JpegShardWriter
        writer = writer_class(folder, index, self.config.image_size)
        with writer, warnings.catch_warnings():
            # `load_square_rgb` refuses such images with its own reason.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            items = self.source.items(split, start, stop)
            if pool is None:
                decoded: Iterable[tuple[Item, EncodedRow | str]] = map(self._decode, items)
            else:
                decoded = map_in_order(pool, self._decode, items)
            for position, (item, row) in enumerate(decoded, start):
                if isinstance(row, str):
                    bad.append((item.name, row))
                    continue
                writer.write(row.data)
                if row.flat:
                    flat.append(item.name)
                labels.append(item.label)
                packed.append(position)
        groups = self.source.groups(split)
        # -1 is for images without a group; the other split may have groups.
        row_groups = [-1] * len(labels) if groups is None else groups[packed].tolist()
        record = {
            "index": index,
            "split": split,
            "labels": labels,
            "groups": row_groups,
            "bad": bad,
            "flat": flat,
        }
        return writer.files, record

    def _decode(self, item: Item) -> tuple[Item, EncodedRow | str]:
        return item, encode_row(item, self.config, self.gray)


def encode_row(item: Item, config: DataConfig, gray: GrayRange = FULL_RANGE) -> EncodedRow | str:
    """Return the row to store for an item, or the reason why it has none.

    Args:
        item: the image.
        config: how it is stored.
        gray: the range of gray images with more than 8 bits a pixel.

    Raises:
        UserError: its bytes can't be read, and it is no dangling link. Such an error of a disk or
            network says nothing about the image, so the image must not be left out permanently.
    """
    try:
        image = item.image.read() if isinstance(item.image, LazyBytes) else item.image
    except UserError:
        if isinstance(item.image, LazyBytes) and item.image.leads_nowhere:
            return "a link that leads nowhere"
        raise
    # Decoders raise anything on damaged files: OSError, SyntaxError, struct.error and more.
    try:
        pixels = load_square_rgb(image, config.image_size, config.encoding == "raw", gray)
        flat = int(pixels.max()) - int(pixels.min()) < _FLAT_LEVELS
        row = pixels if config.encoding == "raw" else encode_jpeg(pixels, config.quality)
        return EncodedRow(row, flat)
    except Exception as error:
        # Pillow names the object it read from by its address, which means nothing to users.
        reason = re.sub(r" <_io\.BytesIO object at 0x[0-9a-f]+>", "", str(error))
        return " ".join(reason.split()) or type(error).__name__


def encode_jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """Return RGB pixels, uint8 [S, S, 3], as a JPEG file.

    Below quality 95, color has half the resolution in both directions, as in most cameras' files.
    """
    file = io.BytesIO()
    # Pillow's numbers for 4:4:4 and 4:2:0.
    subsampling = 0 if quality >= 95 else 2
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return file.getvalue()


def map_in_order(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int = 64
) -> Iterator[R]:
    """Yield `function(item)` for each item, in order, computed by a pool.

    `pool.map` would take all items at once. This takes at most `ahead` items before their results
    are asked for, so memory stays bounded.
    """
    pending: deque[Future[R]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def pack(
    config: DataConfig,
    root: Path,
    progress: Progress = silent,
    run: Runner = in_process,
    repair: bool = False,
) -> PackedImages:
    """Return the packed store of the images, built first if it does not exist.

    Unreadable images are left out of rows, labels and groups alike, and listed in the store's
    bad.csv. Splits and subsets are no part of the store: one store serves them all (see `split`).

    Args:
        config: the images and how they are stored.
        root: folder of all stores.
        progress: called with the number of finished images.
        run: runs the shards, in this process or on a cluster.
        repair: pack the damaged shards of an existing store again.

    Raises:
        UserError: the source can't be opened (see `open_source`), the store can't be built or is
            damaged (see `build_once`), or more images than `data.max_unreadable_fraction` can't be
            read.
    """
    return pack_source(open_source(config), config, root, progress, run, repair)


def pack_source(  # noqa: PLR0913 - `pack` with its source already open
    source: Source,
    config: DataConfig,
    root: Path,
    progress: Progress = silent,
    run: Runner = in_process,
    repair: bool = False,
) -> PackedImages:
    """Return the packed store of an open source; see `pack`."""

    def build(folder: Path) -> dict[str, Any]:
        return _Builder(source, config, folder).build(run, progress)

    parts = store_parts(source, config)
    packed = PackedImages(build_once(root, KIND, parts, build, progress, repair))
    # The limit is not in the store's key, and may have been higher when the store was built.
    _check_bad(packed.bad, len(packed) + len(packed.bad), config)
    return packed


def store_parts(source: Source, config: DataConfig) -> dict[str, Any]:
    """Return everything that a packed store depends on, for its key.

    The key has the number of classes but not their names, so that a corrected name does not cost
    another pass over the images. It has the range of gray images with more than 8 bits a pixel only
    if that is not the full one, so that data sets that never needed it keep
    their keys.

    Raises:
        UserError: as `gray_range`.
    """
    gray = gray_range(source, config)
    range_parts: dict[str, Any] = {}
    if gray != FULL_RANGE:
        range_parts["gray"] = [gray.low, gray.high, "clipped" if gray.given else "refused outside"]
    return {
        "source": source.fingerprint,
        "image_size": config.image_size,
        "encoding": config.encoding,
        "quality": config.quality if config.encoding == "jpeg" else None,
        "resize": RESIZE_VERSION,
        "classes": len(source.names),
        **range_parts,
    }


def count_unpacked(source: Source, config: DataConfig, root: Path) -> int:
    """Return the number of images still to be packed.

    It is 0 if the store exists, even a damaged one: a repair needs no more disk space.
    """
    path = store_path(root, KIND, store_parts(source, config))
    if path.exists():
        return 0
    total = sum(source.count(split) for split in SPLITS)
    records = finished_shards(path)
    return total - sum(len(record["labels"]) + len(record["bad"]) for record in records)


def measure_image_cost(source: Source, config: DataConfig) -> tuple[float, float]:
    """Measure packing on the first few images of each split.

    Returns:
        Mean seconds to pack an image on one core, and its mean size in the store in bytes.
    """
    items: list[Item] = []
    for split in SPLITS:
        items += source.items(split, 0, _SAMPLE)
    gray = gray_range(source, config)
    sizes: list[int] = []
    start = time.perf_counter()
    for item in items:
        row = encode_row(item, config, gray)
        if not isinstance(row, str):
            sizes.append(len(row.data) if isinstance(row.data, bytes) else row.data.nbytes)
    seconds = time.perf_counter() - start
    return seconds / max(1, len(items)), sum(sizes) / max(1, len(sizes))


@dataclass(frozen=True)
class _Builder:
    """Builds one packed store in a folder."""

    source: Source
    config: DataConfig
    folder: Path

    def build(self, run: Runner, progress: Progress) -> dict[str, Any]:
        """Pack all shards and return what the manifest says about them."""
        total = sum(self.source.count(split) for split in SPLITS)

        def make_plan() -> dict[str, Any]:
            return {"shard_images": images_per_shard(total, self.config.image_size)}

        # An interrupted build continues with its own plan, so that its finished shards still fit.
        plan = load_or_make_plan(self.folder, make_plan)
        job = PackJob.over(self.source, self.config, plan["shard_images"])
        bad: list[Bad] = []
        records: dict[int, dict[str, Any]] = {}
        for record in run_shards(job, self.folder, run, progress):
            records[record["index"]] = record
            # Records are JSON, which has no tuples.
            bad += [(name, reason) for name, reason in record["bad"]]
            # Fail early: the remaining images can only add to the unreadable ones.
            if len(bad) > self.config.max_unreadable_fraction * total:
                _check_bad(bad, total, self.config)
        # Shards of a cluster finish in any order.
        return self._finish([records[index] for index in sorted(records)], total)

    def _finish(self, records: list[dict[str, Any]], total: int) -> dict[str, Any]:
        """Write the files that describe all shards, and return the entries of the manifest."""
        bad: list[Bad] = []
        flat: list[str] = []
        for record in records:
            bad += [(name, reason) for name, reason in record["bad"]]
            # Shards of an older version, which did not look for flat images, have no such entry.
            flat += record.get("flat", [])
        _check_bad(bad, total, self.config)
        np.save(self.folder / "labels.npy", _concatenate(record["labels"] for record in records))
        if any(self.source.groups(split) is not None for split in SPLITS):
            groups = _concatenate(record["groups"] for record in records)
            np.save(self.folder / "groups.npy", groups)
        with (self.folder / "bad.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("name", "reason"), *bad])
        if flat:
            with (self.folder / "flat.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("name",), *((name,) for name in flat)])
        rows: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        for record in records:
            rows[record["split"]] += len(record["labels"])
        return {
            "image_size": self.config.image_size,
            "encoding": self.config.encoding,
            "rows": rows,
            "shards": [len(record["labels"]) for record in records],
            "bad": len(bad),
            "flat": len(flat),
            "classes": {"names": list(self.source.names), "keys": list(self.source.keys)},
        }


def images_per_shard(total: int, side: int) -> int:
    """Return the number of images in a shard: at least 64, for at least 64 shards if possible.

    A larger shard has at most 64 MiB of raw pixels.

    Args:
        total: number of images of the source.
        side: side of the stored images, in px.
    """
    most_images = _SHARD_BYTES // (side * side * 3)
    images_for_many_shards = math.ceil(total / _MIN_SHARDS)
    return max(_MIN_SHARD_IMAGES, min(most_images, images_for_many_shards))


def _concatenate(parts: Iterable[list[int]]) -> NDArray[np.int64]:
    # Starts with an empty array, because `np.concatenate` refuses an empty list, and a source
    # without images has no shards.
    arrays = [np.empty(0, np.int64)]
    for part in parts:
        arrays.append(np.array(part, np.int64))
    return np.concatenate(arrays)


def _check_bad(bad: list[Bad], total: int, config: DataConfig) -> None:
    """Raise UserError if too many images, or all of them, can't be read."""
    if len(bad) <= config.max_unreadable_fraction * total and len(bad) < total:
        return
    name, reason = bad[0] if bad else (f"{config.path}", "there are no images")
    raise UserError(
        f"{name} can't be read ({reason}). {len(bad)} of {total} images can't be read, more than "
        f"data.max_unreadable_fraction {config.max_unreadable_fraction} allows; fix or delete "
        "them, or raise data.max_unreadable_fraction"
    )

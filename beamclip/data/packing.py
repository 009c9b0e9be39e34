"""Decode every image once and keep it: the packed store."""

import csv
import io
import re
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beamclip.config import DataConfig, UserError
from beamclip.data.base import SPLITS, Item, Source, Split
from beamclip.data.decode import RESIZE_VERSION, load_square_rgb
from beamclip.data.files import LazyBytes
from beamclip.data.image_shards import JpegRows, RawRows
from beamclip.data.packed import KIND, PackedImages
from beamclip.data.sources.open import open_source
from beamclip.stores import (
    Progress,
    Runner,
    Shards,
    build_once,
    in_process,
    finished_shards,
    load_or_make_plan,
    run_shards,
    silent,
    store_path,
)

# Packing as work in shards: which items each shard holds, and how one is written.


Bad = tuple[str, str]
"""Name of an image and why it can't be used."""
Row = NDArray[np.uint8] | bytes
"""An image as it is stored: pixels [S, S, 3], or a JPEG file."""
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class PackJob:
    """All items of a source, in shards of neighbours; no shard holds items of two splits.

    Attributes:
        spans: (split, first item, item after the last) of each shard.
    """

    source: Source
    config: DataConfig
    spans: tuple[tuple[Split, int, int], ...]
    label: str = "packing images"
    on_device: bool = False

    @classmethod
    def over(cls, source: Source, config: DataConfig, images: int) -> "PackJob":
        """All items, so many images a shard."""
        starts = (
            (split, start, source.count(split))
            for split in SPLITS
            for start in range(0, source.count(split), images)
        )
        return cls(
            source,
            config,
            tuple((split, start, min(start + images, count)) for split, start, count in starts),
        )

    @property
    def sizes(self) -> Sequence[int]:
        """Images in each shard, broken ones included."""
        return [stop - start for _, start, stop in self.spans]

    def open(self, folder: Path, threads: int) -> Callable[[int], None]:
        """The function that packs one shard. Two threads may call it: while one waits for the disk, the other decodes."""
        far = "://" in (self.config.path or "")
        # One thread for files that are near would only hand each image back and forth.
        pool, turn = ThreadPoolExecutor(threads) if threads > 1 or far else None, Lock()

        def write(index: int) -> None:
            with turn:
                files, facts = self._write(folder, index, pool)
            Shards(folder).finish(index, files, facts)

        return write

    def _write(
        self, folder: Path, index: int, pool: ThreadPoolExecutor | None
    ) -> tuple[dict[str, Path], dict[str, Any]]:
        """Write a shard's files under temporary names. Returns these, and the facts for its record."""
        split, start, stop = self.spans[index]
        groups = self.source.groups(split)
        labels, kept, bad = list[int](), list[int](), list[Bad]()
        rows = (RawRows if self.config.encoding == "raw" else JpegRows)(
            folder, index, self.config.image_size
        )
        with rows, warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", Image.DecompressionBombWarning
            )  # we refuse these ourselves
            items = self.source.items(split, start, stop)
            decoded = (
                map(self._decode, items) if pool is None else in_order(pool, self._decode, items)
            )
            for place, (item, row) in enumerate(decoded, start):
                if isinstance(row, str):
                    bad.append((item.name, row))
                    continue
                rows.write(row)
                labels.append(item.label)
                kept.append(place)
        where = None if groups is None else groups[kept].tolist()
        return rows.files, {
            "index": index,
            "split": split,
            "labels": labels,
            "groups": where or [-1] * len(labels),
            "bad": bad,
        }

    def _decode(self, item: Item) -> tuple[Item, Row | str]:
        return item, row_of(item, self.config)


def row_of(item: Item, config: DataConfig) -> Row | str:
    """The row to store for an item, or the reason why there is none.

    Raises:
        UserError: its bytes can't be read, though it is no link that leads nowhere. That says nothing of the image, and must not
            leave it out for good.
    """
    try:
        image = item.image.read() if isinstance(item.image, LazyBytes) else item.image
    except UserError:
        if isinstance(item.image, LazyBytes) and item.image.leads_nowhere:
            return "a link that leads nowhere"
        raise
    try:
        pixels = load_square_rgb(image, config.image_size, upscale=config.encoding == "raw")
        return pixels if config.encoding == "raw" else as_jpeg(pixels, config.quality)
    except (
        Exception
    ) as error:  # decoders raise anything on damaged files: OSError, SyntaxError, struct.error…
        # Pillow names the object it read from, whose address says nothing to anybody.
        return (
            " ".join(re.sub(r" <_io\.BytesIO object at 0x[0-9a-f]+>", "", str(error)).split())
            or type(error).__name__
        )


def as_jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """RGB pixels [S, S, 3] as a JPEG file. Colour is halved in both directions below quality 95, as cameras do."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(
        file, "JPEG", quality=quality, subsampling=0 if quality >= 95 else 2
    )
    return file.getvalue()


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int = 64
) -> Iterator[R]:
    """Like `pool.map`, but takes at most `ahead` items before their results are asked for: memory stays bounded."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


_SHARD_BYTES = 64 * 2**20
_SAMPLE = 16
_SHARDS = 64  # at least so many where there is enough to share out, so that many processes can help and a bar moves


def pack(
    config: DataConfig,
    root: Path,
    progress: Progress = silent,
    run: Runner = in_process,
    repair: bool = False,
) -> PackedImages:
    """The packed store of a configuration's images, built first where it does not exist.

    Broken images are left out of rows, labels and groups alike and listed in the store's bad.csv. Splits and subsets
    are no part of the store: one serves them all (see `split`).

    Args:
        root: folder of all stores.
        run: who decodes: this process, or a cluster's.
        repair: decode again what is damaged in a store that exists.

    Raises:
        UserError: as `open_source` and `build_once`; or a larger share of images than `data.max_unreadable_fraction` can't be read.
    """
    return pack_source(open_source(config), config, root, progress, run, repair)


def pack_source(
    source: Source,
    config: DataConfig,
    root: Path,
    progress: Progress = silent,
    run: Runner = in_process,
    repair: bool = False,
) -> PackedImages:
    """The same for a source that is already open."""

    def build(folder: Path) -> dict[str, Any]:
        return _Builder(source, config, folder).build(run, progress)

    packed = PackedImages(build_once(root, KIND, parts_of(source, config), build, progress, repair))
    _check_bad(
        packed.bad, len(packed) + len(packed.bad), config
    )  # the limit may be lower than when it was built
    return packed


def parts_of(source: Source, config: DataConfig) -> dict[str, Any]:
    """All that a packed store depends on. Not the classes' names, only their number: a better one must not cost another pass over the
    images.
    """
    quality = config.quality if config.encoding == "jpeg" else None
    pixels = {
        "image_size": config.image_size,
        "encoding": config.encoding,
        "quality": quality,
        "resize": RESIZE_VERSION,
    }
    return {"source": source.fingerprint, **pixels, "classes": len(source.names)}


def images_left(source: Source, config: DataConfig, root: Path) -> int:
    """Images that are still to be packed: none where the store is there, which at most is repaired in the room it takes."""
    path = store_path(root, KIND, parts_of(source, config))
    if path.exists():
        return 0
    return sum(map(source.count, SPLITS)) - sum(
        len(record["labels"]) + len(record["bad"]) for record in finished_shards(path)
    )


def cost_of_an_image(source: Source, config: DataConfig) -> tuple[float, float]:
    """Seconds to pack an image on one core, and its bytes in the store, measured on the first few of each split."""
    items = [item for split in SPLITS for item in source.items(split, 0, _SAMPLE)]
    sizes, start = list[int](), time.perf_counter()
    for item in items:
        row = row_of(item, config)
        sizes += (
            [] if isinstance(row, str) else [len(row) if isinstance(row, bytes) else row.nbytes]
        )
    return (time.perf_counter() - start) / max(1, len(items)), sum(sizes) / max(1, len(sizes))


@dataclass(frozen=True)
class _Builder:
    """One building of one packed store."""

    source: Source
    config: DataConfig
    folder: Path

    def build(self, run: Runner, progress: Progress) -> dict[str, Any]:
        total = sum(self.source.count(split) for split in SPLITS)
        rows = load_or_make_plan(
            self.folder, lambda: {"shard_images": shard_images(total, self.config.image_size)}
        )["shard_images"]
        job = PackJob.over(self.source, self.config, rows)
        bad, records = list[Bad](), dict[int, dict[str, Any]]()
        for record in run_shards(job, self.folder, run, progress):
            records[record["index"]] = record
            bad += [(name, reason) for name, reason in record["bad"]]
            if len(bad) > self.config.max_unreadable_fraction * total:  # no need to see the rest
                _check_bad(bad, total, self.config)
        return self._finish([records[index] for index in sorted(records)], total)

    def _finish(self, records: list[dict[str, Any]], total: int) -> dict[str, Any]:
        bad = [(name, reason) for record in records for name, reason in record["bad"]]
        _check_bad(bad, total, self.config)
        np.save(self.folder / "labels.npy", _joined(record["labels"] for record in records))
        if any(self.source.groups(split) is not None for split in SPLITS):
            np.save(self.folder / "groups.npy", _joined(record["groups"] for record in records))
        with (self.folder / "bad.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("name", "reason"), *bad])
        rows: dict[Split, int] = {
            split: sum(len(r["labels"]) for r in records if r["split"] == split) for split in SPLITS
        }
        classes = {"names": list(self.source.names), "keys": list(self.source.keys)}
        encoding = {"image_size": self.config.image_size, "encoding": self.config.encoding}
        return {
            **encoding,
            "rows": rows,
            "shards": [len(r["labels"]) for r in records],
            "bad": len(bad),
            "classes": classes,
        }


def shard_images(total: int, side: int) -> int:
    """Images in a shard: few enough for many hands, and no more than 64 MiB as raw pixels."""
    most = max(64, _SHARD_BYTES // (side * side * 3))
    return max(64, min(most, -(-total // _SHARDS)))


def _joined(parts: Iterable[list[int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.concatenate([np.empty(0, np.int64), *(np.array(part, np.int64) for part in parts)])


def _check_bad(bad: list[Bad], total: int, config: DataConfig) -> None:
    if len(bad) <= config.max_unreadable_fraction * total and len(bad) < total:
        return
    name, reason = bad[0] if bad else (f"{config.path}", "there are no images")
    raise UserError(
        f"{name} can't be read ({reason}), and so {len(bad)} of {total} images, more than data.max_unreadable_fraction "
        f"{config.max_unreadable_fraction} allows; mend or delete them, or raise data.max_unreadable_fraction"
    )

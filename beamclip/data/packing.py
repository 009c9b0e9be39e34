"""Packing as work in shards: which items each shard holds, and how one is written."""

import io
import re
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
from beamclip.data.blob import Blob
from beamclip.data.decode import square
from beamclip.data.item import SPLITS, Item, Source, Split
from beamclip.data.rows import JpegRows, RawRows
from beamclip.stores import Shards

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
        starts = ((split, start, source.count(split)) for split in SPLITS for start in range(0, source.count(split), images))
        return cls(source, config, tuple((split, start, min(start + images, count)) for split, start, count in starts))

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

    def _write(self, folder: Path, index: int, pool: ThreadPoolExecutor | None) -> tuple[dict[str, Path], dict[str, Any]]:
        """Write a shard's files under temporary names. Returns these, and the facts for its record."""
        split, start, stop = self.spans[index]
        groups = self.source.groups(split)
        labels, kept, bad = list[int](), list[int](), list[Bad]()
        rows = (RawRows if self.config.encoding == "raw" else JpegRows)(folder, index, self.config.image_size)
        with rows, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we refuse these ourselves
            items = self.source.items(split, start, stop)
            decoded = map(self._decode, items) if pool is None else in_order(pool, self._decode, items)
            for place, (item, row) in enumerate(decoded, start):
                if isinstance(row, str):
                    bad.append((item.name, row))
                    continue
                rows.write(row)
                labels.append(item.label)
                kept.append(place)
        where = None if groups is None else groups[kept].tolist()
        return rows.files, {"index": index, "split": split, "labels": labels, "groups": where or [-1] * len(labels), "bad": bad}

    def _decode(self, item: Item) -> tuple[Item, Row | str]:
        return item, row_of(item, self.config)


def row_of(item: Item, config: DataConfig) -> Row | str:
    """The row to store for an item, or the reason why there is none.

    Raises:
        UserError: its bytes can't be read, though it is no link that leads nowhere. That says nothing of the image, and must not
            leave it out for good.
    """
    try:
        image = item.image.read() if isinstance(item.image, Blob) else item.image
    except UserError:
        if isinstance(item.image, Blob) and item.image.leads_nowhere:
            return "a link that leads nowhere"
        raise
    try:
        pixels = square(image, config.image_size, upscale=config.encoding == "raw")
        return pixels if config.encoding == "raw" else as_jpeg(pixels, config.quality)
    except Exception as error:  # decoders raise anything on damaged files: OSError, SyntaxError, struct.error…
        # Pillow names the object it read from, whose address says nothing to anybody.
        return " ".join(re.sub(r" <_io\.BytesIO object at 0x[0-9a-f]+>", "", str(error)).split()) or type(error).__name__


def as_jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """RGB pixels [S, S, 3] as a JPEG file. Colour is halved in both directions below quality 95, as cameras do."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0 if quality >= 95 else 2)
    return file.getvalue()


def in_order(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int = 64) -> Iterator[R]:
    """Like `pool.map`, but takes at most `ahead` items before their results are asked for: memory stays bounded."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()

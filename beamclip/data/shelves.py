"""Reading a shard of images by row, from either of its two encodings."""

import io
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beamclip.data.rows import jpeg_name, offsets_name, raw_name

Ids = NDArray[np.int64]
Pixels = NDArray[np.uint8]


class Shelf(Protocol):
    """One shard of a packed store, open for reading."""

    def read(self, rows: Ids, out: Pixels, places: Ids) -> None:
        """Put the pixels of rows [n] into `out[places]`, out: uint8 [B, S, S, 3]."""

    def release(self) -> None:
        """Let go of the pages read so far."""


class RawShelf:
    """Raw pixels, memory-mapped."""

    def __init__(self, folder: Path, index: int, side: int) -> None:
        self._path = folder / raw_name(index)

    @cached_property
    def _rows(self) -> Any:
        return np.load(self._path, mmap_mode="r")

    def read(self, rows: Ids, out: Pixels, places: Ids) -> None:
        """See `Shelf`."""
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):  # one copy each, where fancy indexing makes two
            out[place] = self._rows[row]

    def release(self) -> None:
        """See `Shelf`."""
        _release(self.__dict__.pop("_rows", None))


class JpegShelf:
    """JPEG files end to end, memory-mapped and decoded when they are read."""

    def __init__(self, folder: Path, index: int, side: int) -> None:
        self._path, self._side = folder / jpeg_name(index), side
        self._offsets_path = folder / offsets_name(index)

    @cached_property
    def _bytes(self) -> Any:
        return np.memmap(self._path, np.uint8, "r") if self._path.stat().st_size else np.empty(0, np.uint8)

    @cached_property
    def _offsets(self) -> Ids:
        offsets: Ids = np.load(self._offsets_path)
        return offsets

    def read(self, rows: Ids, out: Pixels, places: Ids) -> None:
        """See `Shelf`."""
        list(_decoders().map(lambda row, place: self._decode(row, out[place]), rows.tolist(), places.tolist()))

    def _decode(self, row: int, out: Pixels) -> None:
        start, stop = self._offsets[row : row + 2].tolist()
        with Image.open(io.BytesIO(self._bytes[start:stop].tobytes())) as image:
            # Smaller originals are stored as small as they are.
            resized = image if image.width == self._side else image.resize((self._side, self._side), Image.Resampling.BICUBIC)
            out[:] = np.asarray(resized)

    def release(self) -> None:
        """See `Shelf`."""
        _release(self.__dict__.pop("_bytes", None))


@cache
def _decoders() -> ThreadPoolExecutor:
    """Pillow decodes without the interpreter's lock. More than four would take the cores from training."""
    return ThreadPoolExecutor(min(4, os.cpu_count() or 1))


def _release(array: Any) -> None:
    pages = getattr(array, "_mmap", None)
    if pages is not None:
        pages.madvise(mmap.MADV_DONTNEED)

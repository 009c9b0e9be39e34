"""Reading a shard of images by row, from either of its two encodings."""

import io
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beamclip.stores import temporary_path

# The two ways a shard of images lies on disk, written row by row: raw pixels, or JPEG files end to end.


Pixels = NDArray[np.uint8]


def raw_name(index: int) -> str:
    """An .npy file, uint8 [rows, S, S, 3]."""
    return f"images-{index:05d}.npy"


def jpeg_name(index: int) -> str:
    """JPEG files, one after the other."""
    return f"images-{index:05d}.jpegs"


def offsets_name(index: int) -> str:
    """Where each of them begins, and where the last one ends: int64 [rows + 1]."""
    return f"offsets-{index:05d}.npy"


class _Rows:
    """A shard that is being written under a temporary name.

    Attributes:
        files: final name -> temporary file, once it is closed.
    """

    def __init__(self, folder: Path, index: int, side: int) -> None:
        self.folder, self.index, self.side = folder, index, side
        self.count = 0
        self.files: dict[str, Path] = {}
        self.file: IO[bytes]

    def temporary(self, name: str) -> Path:
        """Where a file lies until its shard is finished."""
        self.files[name] = temporary_path(
            self.folder / name
        )  # a killed builder's workers may live on and write the same shard
        return self.files[name]

    def finish(self) -> None:
        """What is written once the number of rows is known."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.finish()
            self.file.close()  # writes what is still in memory, which may find the disk full
        except OSError:
            self._discard()
            raise
        if kind is not None:
            self._discard()

    def _discard(self) -> None:
        """A full disk gets its room back."""
        for temporary in self.files.values():
            temporary.unlink(missing_ok=True)


class RawRows(_Rows):
    """An .npy file whose number of rows is known only at its end: it goes into the header, in the room NumPy leaves for it."""

    def __enter__(self) -> Self:
        self.file = self.temporary(raw_name(self.index)).open("wb")
        self._start = self._write_header()
        return self

    def write(self, row: Any) -> None:
        """Add uint8 pixels [S, S, 3]."""
        self.file.write(np.ascontiguousarray(row).data)
        self.count += 1

    def _write_header(self) -> int:
        self.file.seek(0)
        shape = (self.count, self.side, self.side, 3)
        np.lib.format.write_array_header_1_0(
            self.file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        return self.file.tell()

    def finish(self) -> None:
        """See `_Rows`."""
        if self._write_header() != self._start:
            raise RuntimeError(f"the header of {self.file.name} outgrew its room")


class JpegRows(_Rows):
    """JPEG files end to end, and the offsets that tell them apart."""

    def __enter__(self) -> Self:
        self.file = self.temporary(jpeg_name(self.index)).open("wb")
        self._offsets = [0]
        return self

    def write(self, row: Any) -> None:
        """Add the bytes of a JPEG file."""
        self.file.write(row)
        self._offsets.append(self._offsets[-1] + len(row))
        self.count += 1

    def finish(self) -> None:
        """See `_Rows`."""
        with self.temporary(offsets_name(self.index)).open("wb") as file:
            np.save(file, np.array(self._offsets, np.int64))


Ids = NDArray[np.int64]


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
        for row, place in zip(
            rows.tolist(), places.tolist(), strict=True
        ):  # one copy each, where fancy indexing makes two
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
        return (
            np.memmap(self._path, np.uint8, "r")
            if self._path.stat().st_size
            else np.empty(0, np.uint8)
        )

    @cached_property
    def _offsets(self) -> Ids:
        offsets: Ids = np.load(self._offsets_path)
        return offsets

    def read(self, rows: Ids, out: Pixels, places: Ids) -> None:
        """See `Shelf`."""
        list(
            _decoders().map(
                lambda row, place: self._decode(row, out[place]), rows.tolist(), places.tolist()
            )
        )

    def _decode(self, row: int, out: Pixels) -> None:
        start, stop = self._offsets[row : row + 2].tolist()
        with Image.open(io.BytesIO(self._bytes[start:stop].tobytes())) as image:
            # Smaller originals are stored as small as they are.
            resized = (
                image
                if image.width == self._side
                else image.resize((self._side, self._side), Image.Resampling.BICUBIC)
            )
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

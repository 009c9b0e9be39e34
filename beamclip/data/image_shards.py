"""Write and read shards of images, as raw pixels or as JPEG files one after the other."""

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

Ids = NDArray[np.int64]
Pixels = NDArray[np.uint8]


def raw_name(index: int) -> str:
    """Return the name of a shard of raw pixels: an .npy file, uint8 [rows, S, S, 3]."""
    return f"images-{index:05d}.npy"


def jpeg_name(index: int) -> str:
    """Return the name of a shard of JPEG files, one after the other."""
    return f"images-{index:05d}.jpegs"


def offsets_name(index: int) -> str:
    """Return the name of the offsets of a JPEG shard: int64 [rows + 1], the last one is the end."""
    return f"offsets-{index:05d}.npy"


class _ShardWriter:
    """Base class of writers. A shard is written row by row under a temporary name.

    An error inside the `with` statement deletes the temporary files.

    Attributes:
        count: number of rows written so far.
        files: temporary files by their final names; complete once the writer is closed.
    """

    def __init__(self, folder: Path, index: int, side: int) -> None:
        self.folder = folder
        self.index = index
        self.side = side
        self.count = 0
        self.files: dict[str, Path] = {}
        self.file: IO[bytes]

    def temporary(self, name: str) -> Path:
        """Return a new temporary path for a file of the shard."""
        # The path is unique, because workers of a killed builder may still write the same shard.
        self.files[name] = temporary_path(self.folder / name)
        return self.files[name]

    def finish(self) -> None:
        """Write what is known only after the last row, such as the number of rows."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.finish()
            # Closing flushes the last bytes, so the disk may turn out to be full only here.
            self.file.close()
        except OSError:
            self._discard()
            raise
        if kind is not None:
            self._discard()

    def _discard(self) -> None:
        """Delete the temporary files, so that a full disk has room again."""
        for temporary in self.files.values():
            temporary.unlink(missing_ok=True)


class RawShardWriter(_ShardWriter):
    """Writes an .npy file. The number of rows goes into the header at the end."""

    def __enter__(self) -> Self:
        self.file = self.temporary(raw_name(self.index)).open("wb")
        self._header_size = self._write_header()
        return self

    def write(self, row: Any) -> None:
        """Add one row: pixels, uint8 [S, S, 3]."""
        # The array's buffer is written as it is, without the copy that `tobytes` makes.
        self.file.write(np.ascontiguousarray(row).data)
        self.count += 1

    def _write_header(self) -> int:
        """Write the .npy header with the present number of rows, and return its size in bytes."""
        self.file.seek(0)
        shape = (self.count, self.side, self.side, 3)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)
        return self.file.tell()

    def finish(self) -> None:
        """Write the header again, with the number of rows."""
        # NumPy pads headers, so that the first dimension can grow without moving the data.
        if self._write_header() != self._header_size:
            raise RuntimeError(f"the new header of {self.file.name} does not fit before its data")


class JpegShardWriter(_ShardWriter):
    """Writes JPEG files one after the other, and the offsets at which they begin."""

    def __enter__(self) -> Self:
        self.file = self.temporary(jpeg_name(self.index)).open("wb")
        self._offsets = [0]
        return self

    def write(self, row: Any) -> None:
        """Add one row: the bytes of a JPEG file."""
        self.file.write(row)
        self._offsets.append(self._offsets[-1] + len(row))
        self.count += 1

    def finish(self) -> None:
        """Write the offsets."""
        with self.temporary(offsets_name(self.index)).open("wb") as file:
            np.save(file, np.array(self._offsets, np.int64))


class ShardReader(Protocol):
    """One shard of a packed store, open for reading."""

    def read(self, rows: Ids, out: Pixels, positions: Ids) -> None:
        """Copy the pixels of some rows into a batch.

        Args:
            rows: rows of the shard, [n].
            out: the batch, uint8 [B, S, S, 3].
            positions: where in the batch each row belongs, [n].
        """

    def release(self) -> None:
        """Release the memory pages read so far."""


class RawShardReader:
    """Reads raw pixels through a memory map."""

    # `side` is not needed here; both readers take the same arguments.
    def __init__(self, folder: Path, index: int, side: int) -> None:
        self._path = folder / raw_name(index)

    @cached_property
    def _rows(self) -> Any:
        return np.load(self._path, mmap_mode="r")

    def read(self, rows: Ids, out: Pixels, positions: Ids) -> None:
        """Copy rows; see `ShardReader`."""
        # Row by row: `out[positions] = rows` would copy every image twice.
        for row, position in zip(rows.tolist(), positions.tolist(), strict=True):
            out[position] = self._rows[row]

    def release(self) -> None:
        """Release the pages read so far."""
        _release(self.__dict__.pop("_rows", None))


class JpegShardReader:
    """Reads JPEG files through a memory map, and decodes them."""

    def __init__(self, folder: Path, index: int, side: int) -> None:
        self._path = folder / jpeg_name(index)
        self._side = side
        self._offsets_path = folder / offsets_name(index)

    @cached_property
    def _bytes(self) -> Any:
        # The shard is empty if all its images were unreadable; an empty file can't be mapped.
        if not self._path.stat().st_size:
            return np.empty(0, np.uint8)
        return np.memmap(self._path, np.uint8, "r")

    @cached_property
    def _offsets(self) -> Ids:
        offsets: Ids = np.load(self._offsets_path)
        return offsets

    def read(self, rows: Ids, out: Pixels, positions: Ids) -> None:
        """Decode rows; see `ShardReader`."""

        def decode(row: int, position: int) -> None:
            self._decode(row, out[position])

        # `list` waits for all of them and raises the first error.
        list(_decoding_threads().map(decode, rows.tolist(), positions.tolist()))

    def _decode(self, row: int, out: Pixels) -> None:
        """Decode one row into `out`, uint8 [S, S, 3]."""
        start, stop = self._offsets[row : row + 2].tolist()
        with Image.open(io.BytesIO(self._bytes[start:stop].tobytes())) as image:
            pixels: Image.Image = image
            # Smaller originals are stored at their own size.
            if image.width != self._side:
                pixels = image.resize((self._side, self._side), Image.Resampling.BICUBIC)
            out[:] = np.asarray(pixels)

    def release(self) -> None:
        """Release the pages read so far."""
        _release(self.__dict__.pop("_bytes", None))


@cache
def _decoding_threads() -> ThreadPoolExecutor:
    """Return the threads that decode, at most four: more would take cores from training.

    Threads are enough because Pillow releases the interpreter's lock while it decodes.
    """
    return ThreadPoolExecutor(min(4, os.cpu_count() or 1))


def _release(array: Any) -> None:
    """Tell the kernel that a memory-mapped array's pages are no longer needed; None is accepted."""
    # NumPy offers no public access to the `mmap` of an array.
    pages = getattr(array, "_mmap", None)
    if pages is not None:
        pages.madvise(mmap.MADV_DONTNEED)

"""An .npy file whose number of rows is known only at its end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@contextmanager
def row_writer(path: Path, side: int) -> Iterator[Callable[[Pixels], None]]:
    """Write uint8 rows [side, side, 3] one by one. Their number goes into its header at the end, in the room NumPy leaves for it."""
    count = 0
    with path.open("wb") as file:

        def write_header() -> int:
            file.seek(0)
            shape = (count, side, side, 3)
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            return file.tell()

        def write(pixels: Pixels) -> None:
            nonlocal count
            file.write(pixels.tobytes())
            count += 1

        start = write_header()
        yield write
        if write_header() != start:
            raise RuntimeError(f"the header of {path} outgrew its room")

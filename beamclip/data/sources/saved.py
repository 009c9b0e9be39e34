"""Read the Arrow files that `datasets` writes: `save_to_disk` folders, and its own cache."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from beamclip.config import UserError
from beamclip.data.files import Files
from beamclip.data.retry import one_line

SUFFIX = ".arrow"
_FILE_MAGIC = b"ARROW1"


@contextmanager
def open_arrow(files: Files, path: str) -> Iterator[pa.Table]:
    """Open an Arrow file as a table that is mapped into memory, so that only used rows are read.

    Raises:
        UserError: it is not on this machine, or damaged.
    """
    if files.local is None:
        raise UserError(
            f"{files}/{path} is an Arrow file of save_to_disk, which is read on this machine only; "
            "copy the folder here, or write parquet with to_parquet"
        )
    try:
        with pa.memory_map(str(files.local / path)) as mapped:
            is_file = mapped.read(len(_FILE_MAGIC)) == _FILE_MAGIC
            mapped.seek(0)
            reader = pa.ipc.open_file(mapped) if is_file else pa.ipc.open_stream(mapped)
            yield reader.read_all()
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{files}/{path} can't be read as Arrow ({one_line(error)}); write it again with "
            "save_to_disk"
        ) from None

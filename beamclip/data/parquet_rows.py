"""Reading rows of Hugging Face-style parquet files, and no more of a file than they need."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from beamclip.config import UserError
from beamclip.data.files import Entry, Files
from beamclip.data.steady import one_line

IMAGES, LABELS = ("image", "img"), ("label", "fine_label")  # the hub's CIFAR repositories use the second ones
_ROWS = 256  # rows in memory at a time: photographs can be megabytes each


@contextmanager
def open_parquet(files: Files, path: str) -> Iterator[pq.ParquetFile]:
    """A parquet file, open for reading.

    Raises:
        UserError: it is damaged, or its disk or network goes on failing.
    """
    try:
        with files.open(path) as file, pq.ParquetFile(file) as parquet:
            yield parquet
    except (OSError, pa.ArrowException) as error:  # Arrow's own: what the disk or network said is a sentence already
        raise UserError(f"{files}/{path} can't be read as parquet ({one_line(error)}); fetch it again") from None


def column_of(path: str, schema: pa.Schema, known: Sequence[str]) -> str:
    found = next((name for name in known if name in schema.names), None)
    if found is None:
        raise UserError(f"{path} has no column {known[0]!r}, only {', '.join(schema.names)}; rename one of them")
    if schema.names.count(found) > 1:
        raise UserError(f"{path} has more than one column {found!r}; rename all but the one to use")
    return found


def labels_of(files: Files, entries: list[Entry]) -> NDArray[np.int64]:
    return np.concatenate([_labels_of(files, entry.path) for entry in entries])


def _labels_of(files: Files, path: str) -> NDArray[np.int64]:
    with open_parquet(files, path) as file:
        column_of(path, file.schema_arrow, IMAGES)
        name = column_of(path, file.schema_arrow, LABELS)
        column = file.read(columns=[name]).column(0)
    if not len(column):
        return np.empty(0, np.int64)  # a column without values may be of any type
    if not pa.types.is_integer(column.type) or column.null_count:
        raise UserError(f"{path} column {name!r} must hold whole numbers, no nulls; write class indices from 0")
    return np.asarray(column.to_numpy(), np.int64)


def rows_of(files: Files, path: str, field: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[Any, int]]:
    """Image and label of rows `start` to `stop`, reading the row groups that hold them.

    Args:
        field: `.path` to read the paths alone; there are no rows where images have none.
    """
    with open_parquet(files, path) as file:
        image, label = (column_of(path, file.schema_arrow, known) for known in (IMAGES, LABELS))
        kind = file.schema_arrow.field(image).type
        if field and not (pa.types.is_struct(kind) and kind.get_field_index(field.lstrip(".")) >= 0):
            return
        groups, first = _groups(file, start, stop)
        rows = (
            pair
            for batch in file.iter_batches(_ROWS, row_groups=groups, columns=[f"{image}{field}", label])
            for pair in zip(batch.column(image).to_pylist(), batch.column(label).to_pylist(), strict=True)
        )
        yield from islice(rows, start - first, None if stop is None else stop - first)


def _groups(file: pq.ParquetFile, start: int, stop: int | None) -> tuple[list[int], int]:
    """The row groups that hold some of these rows, and the number of the first row in them."""
    ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)])
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    stop = int(ends[-1]) if stop is None and len(ends) else stop or 0
    groups = [group for group in range(len(ends)) if starts[group] < stop and ends[group] > start]
    return groups, int(starts[groups[0]]) if groups else start

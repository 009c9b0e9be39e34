"""Read images in parquet files as on the Hugging Face hub.

They have a column `image: {bytes, path}`, a column `label`, and class names in the schema's
metadata. Only the needed row groups and columns of a file are read. The `datasets` package would
first copy every file into its own cache.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import cached_property
from itertools import chain, islice
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from beamclip.config import DataConfig, UserError
from beamclip.data.base import SPLITS, TEST_NAMES, Item, Split, digest
from beamclip.data.class_names import in_words, resolve_classes, wordnet_id
from beamclip.data.files import Entry, Files
from beamclip.data.retry import one_line

IMAGES = ("image", "img")
"""Names of the column with the images. `img` is for the hub's CIFAR repositories."""
LABELS = ("label", "fine_label")
"""Names of the column with the labels. `fine_label` is for the hub's CIFAR-100."""
_ROWS = 256
"""Rows in memory at a time: photographs can be megabytes each."""
_SMALL = 200 * 2**20
"""Total bytes below which the contents of all files are hashed, which costs little then."""


@contextmanager
def open_parquet(files: Files, path: str) -> Iterator[pq.ParquetFile]:
    """Open a parquet file for reading.

    Raises:
        UserError: it is damaged, or its disk or network keeps failing.
    """
    try:
        with files.open(path) as file, pq.ParquetFile(file) as parquet:
            yield parquet
    # Arrow's own errors. Those of disk and network are UserErrors already, see `RetryingFile`.
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{files}/{path} can't be read as parquet ({one_line(error)}); download it again"
        ) from None


def column_of(path: str, schema: pa.Schema, names: Sequence[str]) -> str:
    """Return the first of some names that a file has as a column.

    Args:
        path: path of the file, for messages.
        schema: schema of the file.
        names: possible names of the column, in order of preference.

    Raises:
        UserError: none of the names exists, or there are several columns of that name.
    """
    name = next((name for name in names if name in schema.names), None)
    if name is None:
        raise UserError(
            f"{path} has no column {names[0]!r}, only {', '.join(schema.names)}; rename one of them"
        )
    if schema.names.count(name) > 1:
        raise UserError(f"{path} has more than one column {name!r}; rename all but the one to use")
    return name


def labels_of(files: Files, entries: list[Entry]) -> NDArray[np.int64]:
    """Return the labels of all rows of several files, int64 [rows].

    Raises:
        UserError: a file lacks a column, or its labels are no whole numbers.
    """
    return np.concatenate([_labels_of(files, entry.path) for entry in entries])


def _labels_of(files: Files, path: str) -> NDArray[np.int64]:
    """Return the labels of one file; see `labels_of`."""
    with open_parquet(files, path) as file:
        # A missing image column should be reported now and not while packing.
        column_of(path, file.schema_arrow, IMAGES)
        name = column_of(path, file.schema_arrow, LABELS)
        column = file.read(columns=[name]).column(0)
    # A column without values may have any type.
    if not len(column):
        return np.empty(0, np.int64)
    if not pa.types.is_integer(column.type) or column.null_count:
        raise UserError(
            f"{path} column {name!r} must hold whole numbers, no nulls; write class indices from 0"
        )
    return np.asarray(column.to_numpy(), np.int64)


def rows_of(
    files: Files, path: str, field: str, start: int = 0, stop: int | None = None
) -> Iterator[tuple[Any, int]]:
    """Yield image and label of rows `start` to `stop`, reading only the row groups that hold them.

    Args:
        files: the data set's files.
        path: path of the file.
        field: "" for the whole image column, `.path` for the paths alone. Without such a field in
            the image column, no rows are yielded.
        start: first row.
        stop: row after the last; None for the end.

    Raises:
        UserError: the file can't be read, or lacks a column.
    """
    with open_parquet(files, path) as file:
        schema = file.schema_arrow
        image = column_of(path, schema, IMAGES)
        label = column_of(path, schema, LABELS)
        kind = schema.field(image).type
        has_field = pa.types.is_struct(kind) and kind.get_field_index(field.lstrip(".")) >= 0
        if field and not has_field:
            return
        groups, first_row = _row_groups(file, start, stop)
        columns = [f"{image}{field}", label]
        batches = file.iter_batches(_ROWS, row_groups=groups, columns=columns)
        rows = _rows_of_batches(batches, image, label)
        yield from islice(rows, start - first_row, None if stop is None else stop - first_row)


def _rows_of_batches(batches: Iterable[Any], image: str, label: str) -> Iterator[tuple[Any, int]]:
    for batch in batches:
        images = batch.column(image).to_pylist()
        yield from zip(images, batch.column(label).to_pylist(), strict=True)


def _row_groups(file: pq.ParquetFile, start: int, stop: int | None) -> tuple[list[int], int]:
    """Return the row groups that hold some of the rows, and the number of the first row in them."""
    metadata = file.metadata
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if not sizes:
        return [], start
    ends = np.cumsum(sizes)
    starts = ends - sizes
    stop = int(ends[-1]) if stop is None else stop
    groups: list[int] = np.flatnonzero((starts < stop) & (ends > start)).tolist()
    first_row = int(starts[groups[0]]) if groups else start
    return groups, first_row


def parquet_files(files: Files, split: str) -> list[Entry]:
    """Return a split's files, sorted; an empty list if there are none.

    These are the first that exist of `SPLIT-*.parquet`, `SPLIT.parquet`, `data/SPLIT-*.parquet`
    and `SPLIT/*.parquet`.
    """
    candidates = (
        ("", f"{split}-*.parquet"),
        ("", f"{split}.parquet"),
        ("data", f"{split}-*.parquet"),
        (split, "*.parquet"),
    )
    for folder, pattern in candidates:
        entries = []
        for entry in files.files(folder):
            if fnmatch(PurePath(entry.path).name, pattern):
                entries.append(entry)
        if entries:
            return entries
    return []


class ParquetSource:
    """Parquet files of one data set.

    Raises:
        UserError: a split or column is missing, a file is damaged, or the labels have no names.
    """

    def __init__(self, files: Files, config: DataConfig) -> None:
        self._files = files
        # Number of rows of each file, once it is known.
        self._row_counts: dict[str, int] = {}
        self._entries: dict[Split, list[Entry]] = {"train": parquet_files(files, "train")}
        if not self._entries["train"]:
            raise UserError(
                f"{files} has no train-*.parquet; name the files train-… and test-… or set "
                "data.source"
            )
        self._labels: dict[Split, NDArray[np.int64]] = {
            "train": labels_of(files, self._entries["train"])
        }
        if not len(self._labels["train"]):
            raise UserError(
                f"{files} has no rows in its train-*.parquet; write the images there, or fix "
                "data.path"
            )
        self._entries["test"], self._labels["test"] = _test_split(files)
        largest = max(_largest(split, labels, files) for split, labels in self._labels.items())
        schema_names = _names_in_schema(files, self._entries["train"][0].path)
        self.names, keys = resolve_classes(config, schema_names, largest + 1)
        self.keys = keys if any(keys) else self._keys_in_paths()
        # Replace ids by words again: the paths may have given keys that the names did not. The
        # user's own names stay as they are.
        if config.class_names is None:
            self.names = in_words(self.names, self.keys)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the contents of the files if they are small.

        For large files it changes with their names, sizes, footers and labels. A footer holds
        offsets and statistics, which a corrected label may leave as they are.
        """
        entries = self._files.stamped([*self._entries["train"], *self._entries["test"]])
        is_small = sum(entry.size for entry in entries) < _SMALL
        facts: list[object] = []
        for entry in entries:
            facts.append((entry.path, _hash(self._files, entry, is_small)))
        if not is_small:
            for split in SPLITS:
                facts.append(hashlib.sha256(self._labels[split].tobytes()).hexdigest())
        return digest(facts)

    def count(self, split: Split) -> int:
        """Return the number of rows of a split."""
        return len(self._labels[split])

    def items(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Item]:
        """Yield items `start` to `stop` of a split."""
        stop = self.count(split) if stop is None else min(stop, self.count(split))
        for entry in self._entries[split]:
            rows = self._rows_in(entry)
            if start < rows and stop > 0:
                yield from self._items_of(entry, max(start, 0), min(stop, rows))
            # Count from the first row of the next file.
            start -= rows
            stop -= rows

    def _rows_in(self, entry: Entry) -> int:
        """Return the number of rows of a file."""
        if entry.path not in self._row_counts:
            with open_parquet(self._files, entry.path) as file:
                self._row_counts[entry.path] = file.metadata.num_rows
        return self._row_counts[entry.path]

    def _items_of(self, entry: Entry, start: int, stop: int) -> Iterator[Item]:
        """Yield rows `start` to `stop` of one file."""
        rows = rows_of(self._files, entry.path, "", start, stop)
        for row, (image, label) in enumerate(rows, start):
            name = f"{PurePath(entry.path).name} row {row}"
            # The column holds {bytes, path}, or bytes alone.
            encoded = image
            if isinstance(image, dict):
                encoded = image.get("bytes")
                path = image.get("path")
                name += f" ({path})" if path else ""
            yield Item(name, encoded or b"", label)

    def groups(self, split: Split) -> NDArray[np.int64] | None:
        """Return None: parquet files have no groups."""
        return None

    def _keys_in_paths(self) -> tuple[str | None, ...]:
        """Return the WordNet id of each class by the images' paths, or None for each.

        ImageNet's files are named after their classes. Paths are read until each class has an id.
        There are no ids if one path has none, or if a class has two.
        """
        keys: dict[int, str] = {}
        labels = set(np.unique(self._labels["train"]).tolist())
        paths = (rows_of(self._files, entry.path, ".path") for entry in self._entries["train"])
        for path, label in chain.from_iterable(paths):
            key = wordnet_id(str((path or {}).get("path")))
            if key is None or keys.setdefault(label, key) != key:
                return (None,) * len(self.names)
            if labels == keys.keys():
                break
        return tuple(keys.get(label) for label in range(len(self.names)))


def _largest(split: Split, labels: NDArray[np.int64], files: Files) -> int:
    """Return the largest label, or -1 without labels.

    Raises:
        UserError: a label is negative.
    """
    if labels.size and labels.min() < 0:
        raise UserError(
            f"{files} has the label {labels.min()} in its {split} split; write class indices from 0"
        )
    return int(labels.max(initial=-1))


def _test_split(files: Files) -> tuple[list[Entry], NDArray[np.int64]]:
    """Return files and labels of the first split for testing that has labels.

    Raises:
        UserError: there is none.
    """
    for name in TEST_NAMES:
        entries = parquet_files(files, name)
        labels = labels_of(files, entries) if entries else np.empty(0, np.int64)
        # ImageNet's test files on the hub have -1 for every label; validation is used then.
        if (labels >= 0).any():
            return entries, labels
    raise UserError(
        f"{files} has no test split with labels; add test-*.parquet or validation-*.parquet"
    )


def _names_in_schema(files: Files, path: str) -> list[str] | None:
    """Return the class names in the metadata that `datasets` writes, or None."""
    with open_parquet(files, path) as file:
        schema = file.schema_arrow
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column_of(path, schema, LABELS)]["names"]
    # The metadata is missing or has another form.
    except (KeyError, TypeError, ValueError):
        return None
    return list(map(str, names)) if isinstance(names, list) else None


def _hash(files: Files, entry: Entry, whole: bool) -> str:
    """Return the SHA-256 of a file, or of its size and footer."""
    if whole:
        return hashlib.sha256(files.read(entry.path)).hexdigest()
    # The last 8 bytes of a parquet file are the footer's length and a magic word.
    length = int.from_bytes(files.read(entry.path, entry.size - 8, 4), "little")
    footer = files.read(entry.path, entry.size - 8 - length, length)
    return hashlib.sha256(str(entry.size).encode() + footer).hexdigest()

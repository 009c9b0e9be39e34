"""Read images in parquet files as on the Hugging Face hub.

They have a column `image: {bytes, path}`, a column `label`, and class names in the schema's
metadata. No more of a file is read than needed. `datasets` would copy every file into a cache of
its own first.
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
LABELS = ("label", "fine_label")
"""Names of columns; the hub's CIFAR repositories use the second ones."""
_ROWS = 256
"""Rows in memory at a time: photographs can be megabytes each."""
_SMALL = 200 * 2**20
"""Total bytes below which hashing the contents of all files costs little."""


@contextmanager
def open_parquet(files: Files, path: str) -> Iterator[pq.ParquetFile]:
    """Open a parquet file for reading.

    Raises:
        UserError: it is damaged, or its disk or network keeps failing.
    """
    try:
        with files.open(path) as file, pq.ParquetFile(file) as parquet:
            yield parquet
    # Arrow's own errors; those of disk and network are sentences already.
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{files}/{path} can't be read as parquet ({one_line(error)}); download it again"
        ) from None


def column_of(path: str, schema: pa.Schema, known: Sequence[str]) -> str:
    """Return the name of a column that a file has exactly once.

    Args:
        path: of the file, for messages.
        schema: of the file.
        known: possible names, in order of preference.

    Raises:
        UserError: none of the names exists, or the name occurs more than once.
    """
    found = next((name for name in known if name in schema.names), None)
    if found is None:
        raise UserError(
            f"{path} has no column {known[0]!r}, only {', '.join(schema.names)}; rename one of them"
        )
    if schema.names.count(found) > 1:
        raise UserError(f"{path} has more than one column {found!r}; rename all but the one to use")
    return found


def labels_of(files: Files, entries: list[Entry]) -> NDArray[np.int64]:
    """Return the labels of all rows of several files.

    Raises:
        UserError: a file lacks a column, or its labels are no whole numbers.
    """
    return np.concatenate([_labels_of(files, entry.path) for entry in entries])


def _labels_of(files: Files, path: str) -> NDArray[np.int64]:
    with open_parquet(files, path) as file:
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
        path: of the file.
        field: "" for the whole image column, `.path` for the paths alone. If images have no paths,
            there are no rows.
        start: first row.
        stop: row after the last; None for the end.
    """
    with open_parquet(files, path) as file:
        schema = file.schema_arrow
        image = column_of(path, schema, IMAGES)
        label = column_of(path, schema, LABELS)
        kind = schema.field(image).type
        has_field = pa.types.is_struct(kind) and kind.get_field_index(field.lstrip(".")) >= 0
        if field and not has_field:
            return
        groups, first = _groups(file, start, stop)
        columns = [f"{image}{field}", label]
        rows = _batch_rows(
            file.iter_batches(_ROWS, row_groups=groups, columns=columns), image, label
        )
        yield from islice(rows, start - first, None if stop is None else stop - first)


def _batch_rows(batches: Iterable[Any], image: str, label: str) -> Iterator[tuple[Any, int]]:
    for batch in batches:
        images = batch.column(image).to_pylist()
        yield from zip(images, batch.column(label).to_pylist(), strict=True)


def _groups(file: pq.ParquetFile, start: int, stop: int | None) -> tuple[list[int], int]:
    """Return the row groups that hold some of the rows, and the number of the first row in them."""
    metadata = file.metadata
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if not sizes:
        return [], start
    ends = np.cumsum(sizes)
    starts = ends - sizes
    stop = int(ends[-1]) if stop is None else stop
    groups = [group for group in range(len(ends)) if starts[group] < stop and ends[group] > start]
    return groups, int(starts[groups[0]]) if groups else start


def parquet_files(files: Files, split: str) -> list[Entry]:
    """Return a split's files, sorted.

    The first that exist: `SPLIT-*.parquet`, `SPLIT.parquet`, `data/SPLIT-*.parquet`, all of
    `SPLIT/`.
    """
    places = (
        ("", f"{split}-*.parquet"),
        ("", f"{split}.parquet"),
        ("data", f"{split}-*.parquet"),
        (split, "*.parquet"),
    )
    for folder, pattern in places:
        entries = files.files(folder)
        entries = [entry for entry in entries if fnmatch(PurePath(entry.path).name, pattern)]
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
        count = 1 + max(_largest(split, labels, files) for split, labels in self._labels.items())
        self.names, keys = resolve_classes(
            config, _own_names(files, self._entries["train"][0].path), count
        )
        self.keys = keys if any(keys) else self._keys_in_paths()
        if config.class_names is None:
            self.names = in_words(self.names, self.keys)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the files: with their contents if they are small.

        For large ones with names, sizes, footers (which hold offsets and statistics) and labels: a
        corrected label may change neither an offset nor a statistic.
        """
        entries = self._files.stamped([*self._entries["train"], *self._entries["test"]])
        is_small = sum(entry.size for entry in entries) < _SMALL
        facts: list[object] = [
            (entry.path, _hash(self._files, entry, is_small)) for entry in entries
        ]
        if not is_small:
            facts += [hashlib.sha256(self._labels[split].tobytes()).hexdigest() for split in SPLITS]
        return digest(facts)

    def count(self, split: Split) -> int:
        """Return the number of rows of a split."""
        return len(self._labels[split])

    def items(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Item]:
        """Return items `start` to `stop` of a split."""
        stop = self.count(split) if stop is None else min(stop, self.count(split))
        for entry in self._entries[split]:
            rows = self._rows_in(entry)
            if start < rows and stop > 0:
                yield from self._items_of(entry, max(start, 0), min(stop, rows))
            start, stop = start - rows, stop - rows

    def _rows_in(self, entry: Entry) -> int:
        if entry.path not in self._counts:
            with open_parquet(self._files, entry.path) as file:
                self._counts[entry.path] = file.metadata.num_rows
        return self._counts[entry.path]

    @cached_property
    def _counts(self) -> dict[str, int]:
        return {}

    def _items_of(self, entry: Entry, start: int, stop: int) -> Iterator[Item]:
        for row, (image, label) in enumerate(
            rows_of(self._files, entry.path, "", start, stop), start
        ):
            encoded, path = (
                (image.get("bytes"), image.get("path"))
                if isinstance(image, dict)
                else (image, None)
            )
            yield Item(
                f"{PurePath(entry.path).name} row {row}{f' ({path})' if path else ''}",
                encoded or b"",
                label,
            )

    def groups(self, split: Split) -> NDArray[np.int64] | None:
        """Return None: parquet files know no groups."""
        return None

    def _keys_in_paths(self) -> tuple[str | None, ...]:
        """Return the WordNet ids in the images' paths, if every path has one.

        ImageNet's files are named after their class. Reads until each class has an id.
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
    if labels.size and labels.min() < 0:
        raise UserError(
            f"{files} has the label {labels.min()} in its {split} split; write class indices from 0"
        )
    return int(labels.max(initial=-1))


def _test_split(files: Files) -> tuple[list[Entry], NDArray[np.int64]]:
    for name in TEST_NAMES:
        entries = parquet_files(files, name)
        labels = labels_of(files, entries) if entries else np.empty(0, np.int64)
        # ImageNet's test files on the hub have -1 for every label; validation is used then.
        if (labels >= 0).any():
            return entries, labels
    raise UserError(
        f"{files} has no test split with labels; add test-*.parquet or validation-*.parquet"
    )


def _own_names(files: Files, path: str) -> list[str] | None:
    with open_parquet(files, path) as file:
        schema = file.schema_arrow
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column_of(path, schema, LABELS)]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return list(map(str, names)) if isinstance(names, list) else None


def _hash(files: Files, entry: Entry, whole: bool) -> str:
    """Return the SHA-256 of a file, or of its size and footer.

    The last 8 bytes of a parquet file are the footer's length and a magic word.
    """
    if whole:
        return hashlib.sha256(files.read(entry.path)).hexdigest()
    length = int.from_bytes(files.read(entry.path, entry.size - 8, 4), "little")
    footer = files.read(entry.path, entry.size - 8 - length, length)
    return hashlib.sha256(str(entry.size).encode() + footer).hexdigest()

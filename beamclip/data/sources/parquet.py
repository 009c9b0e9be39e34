"""Read images in parquet files as on the Hugging Face hub.

They have a column `image: {bytes, path}`, a column `label`, and class names in the schema's
metadata. Only the needed row groups and columns of a file are read. The `datasets` package would
first copy every file into its own cache. Folders of `save_to_disk` hold the same tables as Arrow.

An image column may also hold base64 text, or paths of the images, which are then read.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from beamclip.data.base import SPLITS, TEST_NAMES, Item, Split, class_notes, digest
from beamclip.data.class_names import in_words, resolve_classes, wordnet_id
from beamclip.data.files import Entry, Files, LazyBytes
from beamclip.data.retry import one_line
from beamclip.data.sources.saved import SUFFIX, open_arrow

IMAGES = ("image", "img")
"""Names of the column with the images. `img` is for the hub's CIFAR repositories."""
LABELS = ("label", "fine_label", "labels")
"""Names of the column with the labels. `fine_label` is for the hub's CIFAR-100."""
_ROWS = 256
"""Rows in memory at a time: photographs can be megabytes each."""
_SHOWN = 200
"""Characters of a path that a message shows."""
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
        name = _typed_column(schema, "Image" if names is IMAGES else "ClassLabel")
    if name is None:
        raise UserError(
            f"{path} has no column {names[0]!r}, only {', '.join(schema.names)}; rename one of them"
        )
    if schema.names.count(name) > 1:
        raise UserError(f"{path} has more than one column {name!r}; rename all but the one to use")
    return name


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return what `datasets` wrote about the columns into the metadata; empty if it did not."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    # The metadata is missing or has another form.
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _typed_column(schema: pa.Schema, kind: str) -> str | None:
    """Return the only column that `datasets` gave a type such as `ClassLabel`, or None."""
    columns = []
    for name, feature in _features(schema).items():
        is_kind = isinstance(feature, dict) and feature.get("_type") == kind
        if is_kind and name in schema.names:
            columns.append(name)
    return columns[0] if len(columns) == 1 else None


def _schema_of(files: Files, path: str) -> pa.Schema:
    if path.endswith(SUFFIX):
        with open_arrow(files, path) as table:
            return table.schema
    with open_parquet(files, path) as file:
        return file.schema_arrow


def labels_of(files: Files, entries: list[Entry]) -> NDArray[np.int64]:
    """Return the labels of all rows of several files, int64 [rows].

    Raises:
        UserError: a file lacks a column, or its labels are no whole numbers.
    """
    return np.concatenate([_labels_of(files, entry.path) for entry in entries])


def _labels_of(files: Files, path: str) -> NDArray[np.int64]:
    """Return the labels of one file; see `labels_of`."""
    if path.endswith(SUFFIX):
        with open_arrow(files, path) as table:
            column_of(path, table.schema, IMAGES)
            name = column_of(path, table.schema, LABELS)
            column = table.column(name)
    else:
        with open_parquet(files, path) as file:
            # A missing image column should be reported now and not while packing.
            column_of(path, file.schema_arrow, IMAGES)
            name = column_of(path, file.schema_arrow, LABELS)
            column = file.read(columns=[name]).column(0)
    # A column without values may have any type.
    if not len(column):
        return np.empty(0, np.int64)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        raise UserError(
            f"{path} column {name!r} holds lists of labels, but an image has one class here; write "
            "one class index per row, for example the main label"
        )
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
    if path.endswith(SUFFIX):
        with open_arrow(files, path) as table:
            image = column_of(path, table.schema, IMAGES)
            label = column_of(path, table.schema, LABELS)
            kind = table.schema.field(image).type
            if field and not pa.types.is_struct(kind):
                return
            part = table.slice(start, None if stop is None else stop - start)
            batches = part.select([image, label]).to_batches(_ROWS)
            yield from _rows_of_batches(batches, image, label)
        return
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


def parquet_files(files: Files, split: str, base: str = "") -> list[Entry]:
    """Return a split's files, sorted; an empty list if there are none.

    These are the first that exist of `SPLIT-*.parquet`, `SPLIT.parquet`, `data/SPLIT-*.parquet`
    and `SPLIT/*.parquet`, otherwise the Arrow files that `datasets` writes.

    Args:
        files: the data set's files.
        split: name of the split.
        base: folder in which these are looked for; see `find_base`.

    Raises:
        UserError: the rows of Arrow files are chosen by an index of `datasets`.
    """
    candidates = (
        ("", f"{split}-*.parquet"),
        ("", f"{split}.parquet"),
        ("data", f"{split}-*.parquet"),
        (split, "*.parquet"),
        # `save_to_disk`, then the cache of `datasets`.
        (split, "data-*.arrow"),
        ("", f"*-{split}.arrow"),
        ("", f"*-{split}-*-of-*.arrow"),
    )
    for folder, pattern in candidates:
        entries = []
        index = None
        for entry in files.files(f"{base}/{folder}".strip("/")):
            if fnmatch(PurePath(entry.path).name, pattern):
                entries.append(entry)
            elif fnmatch(PurePath(entry.path).name, "indices*.arrow"):
                index = entry.path
        if entries and index is not None:
            # `datasets` wrote it for a set that was filtered or shuffled. The tables have all rows.
            raise UserError(
                f"{files} has {index}, which says which rows belong to the data set, and beamclip "
                "doesn't read it; save the data set again with flatten_indices().save_to_disk()"
            )
        if entries:
            return entries
    return []


def find_base(files: Files) -> str:
    """Return the folder that has the files of train: "" or the only folder with such files.

    On the hub, each configuration of a data set has a folder of its own, such as `plain_text`.

    Returns:
        "" also if there are no such files anywhere.

    Raises:
        UserError: several folders have them.
    """
    if parquet_files(files, "train"):
        return ""
    bases = [folder for folder in files.folders() if parquet_files(files, "train", folder)]
    if len(bases) > 1:
        raise UserError(
            f"{files} has a train split in {bases[0]} and in {bases[1]}; give --data with one of "
            f"them, such as {files}/{bases[0]}"
        )
    return bases[0] if bases else ""


def _missing_files(entries: Sequence[Entry]) -> list[str]:
    """Return a sentence if files are fewer than their names say, `train-00000-of-00005.parquet`.

    Nothing is returned for names that say no number or different ones.
    """
    matches = [re.search(r"-of-(\d+)(?:-\w+)?\.\w+$", entry.path) for entry in entries]
    totals = {int(match.group(1)) for match in matches if match}
    if None in matches or len(totals) != 1 or len(entries) >= max(totals):
        return []
    verb = "is" if len(entries) == 1 else "are"
    return [f"only {len(entries)} of {max(totals)} files {verb} there, such as {entries[0].path}"]


class ParquetSource:
    """Parquet files of one data set.

    Raises:
        UserError: a split or column is missing, a file is damaged, or the labels have no names.
    """

    def __init__(self, files: Files, config: DataConfig) -> None:
        self._files = files
        # Number of rows of each file, once it is known.
        self._row_counts: dict[str, int] = {}
        base = find_base(files)
        self._entries: dict[Split, list[Entry]] = {"train": parquet_files(files, "train", base)}
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
        self._entries["test"], self._labels["test"], layout_notes = _test_split(files, base)
        for split in SPLITS:
            layout_notes += _missing_files(self._entries[split])
        # The folder of the images of each file that holds paths instead of images.
        self._places: dict[str, _Place] = {}
        self._is_text = False
        for split in SPLITS:
            first, *others = self._entries[split]
            # The files of a split have one writer. Usually the first one's footer shows it.
            if _surely_has_bytes(files, first.path):
                continue
            for entry in (first, *others):
                place = _find_place(files, entry.path)
                if place is not None:
                    self._places[entry.path] = place
            schema = _schema_of(files, first.path)
            kind = schema.field(column_of(first.path, schema, IMAGES)).type
            if pa.types.is_string(kind) or pa.types.is_large_string(kind):
                self._is_text = True
        if self._places:
            path, place = next(iter(self._places.items()))
            layout_notes.append(f"{path} holds paths of images, which are read from {place}")
        largest = max(_largest(split, labels, files) for split, labels in self._labels.items())
        schema_names = _names_in_schema(files, self._entries["train"][0].path)
        self.names, keys = resolve_classes(config, schema_names, largest + 1)
        self.keys = keys if any(keys) else self._keys_in_paths()
        # Replace ids by words again: the paths may have given keys that the names did not. The
        # user's own names stay as they are.
        if config.class_names is None:
            self.names = in_words(self.names, self.keys)
        found = class_notes(self.names, self._labels["train"], self._labels["test"])
        self.notes: tuple[str, ...] = (*layout_notes, *found)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the contents of the files if they are small.

        For large files it changes with their names, sizes, footers and labels. A footer holds
        offsets and statistics, which a corrected label may leave as they are. Images that are
        found by their paths count with their sizes and times.
        """
        entries = self._files.stamped([*self._entries["train"], *self._entries["test"]])
        is_small = sum(entry.size for entry in entries) < _SMALL
        facts: list[object] = []
        for entry in entries:
            facts.append((entry.path, _hash(self._files, entry, is_small)))
        if not is_small:
            for split in SPLITS:
                facts.append(hashlib.sha256(self._labels[split].tobytes()).hexdigest())
        # Earlier versions read text as unreadable images, and may have left an unfinished store.
        if self._is_text:
            facts.append("text")
        for path, place in self._places.items():
            followed = [Entry(place.below(name), 0, "") for name in _paths_in(self._files, path)]
            facts.append(("followed", path, digest(place.files.stamped(followed))))
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
            self._row_counts[entry.path] = _count_rows(self._files, entry.path)
        return self._row_counts[entry.path]

    def _items_of(self, entry: Entry, start: int, stop: int) -> Iterator[Item]:
        """Yield rows `start` to `stop` of one file."""
        rows = rows_of(self._files, entry.path, "", start, stop)
        for row, (image, label) in enumerate(rows, start):
            name = f"{PurePath(entry.path).name} row {row}"
            # The column holds {bytes, path}, or bytes, a path or base64 text alone.
            encoded, path = _bytes_and_path(image)
            name += f" ({path})" if path else ""
            place = self._places.get(entry.path)
            if not encoded and path and place is not None:
                yield Item(name, LazyBytes(place.files, place.below(path)), label)
            else:
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


@dataclass(frozen=True)
class _Place:
    """A folder that paths in a file start from.

    Attributes:
        files: the files that are followed.
        prefix: folder in them; "" for their own.
    """

    files: Files
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.files}/{self.prefix}".rstrip("/") or "/"

    def below(self, path: str) -> str:
        """Return a path in `files`, given the one in the table."""
        return f"{self.prefix}/{path.lstrip('/')}".lstrip("/")


def _bytes_and_path(image: Any) -> tuple[bytes | None, str | None]:
    """Return the encoded image and the path in one entry of an image column."""
    if isinstance(image, dict):
        path = image.get("path")
        return image.get("bytes"), path if isinstance(path, str) else None
    if isinstance(image, str):
        encoded = _from_base64(image)
        return encoded, image if encoded is None else None
    return (image, None) if isinstance(image, bytes) else (None, None)


def _from_base64(text: str) -> bytes | None:
    """Return the image in base64 text, `data:` URLs included; None if the text is something else.

    A path may consist of the same letters, so the first bytes must be those of an image file.
    """
    payload = text.partition(",")[2] if text.startswith("data:") else text
    try:
        head = base64.b64decode(payload[:16], validate=True)
        known = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
        return base64.b64decode(payload) if head.startswith(known) and len(payload) > 64 else None
    except (binascii.Error, ValueError):
        return None


def _count_rows(files: Files, path: str) -> int:
    if path.endswith(SUFFIX):
        with open_arrow(files, path) as table:
            return int(table.num_rows)
    with open_parquet(files, path) as file:
        return int(file.metadata.num_rows)


def _paths_in(files: Files, path: str) -> Iterator[str]:
    """Yield the paths of a file's images, for rows without bytes."""
    for image, _ in rows_of(files, path, ""):
        encoded, name = _bytes_and_path(image)
        if not encoded and name:
            yield name


def _surely_has_bytes(files: Files, path: str) -> bool:
    """Return whether a file's type or statistics show bytes in each row; no row is read."""
    if path.endswith(SUFFIX):
        return False
    with open_parquet(files, path) as file:
        image = column_of(path, file.schema_arrow, IMAGES)
        kind = file.schema_arrow.field(image).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return True
        metadata = file.metadata
        for index in range(metadata.num_columns if metadata.num_row_groups else 0):
            column = metadata.row_group(0).column(index)
            statistics = column.statistics
            is_bytes = column.path_in_schema == f"{image}.bytes"
            if is_bytes and statistics is not None and statistics.has_null_count:
                return bool(statistics.null_count == 0)
    return False


def _find_place(files: Files, path: str) -> _Place | None:
    """Return where to follow the paths of a file from; None if its images are in it.

    Its first row decides. A relative path is tried in the file's folder, then in the data
    set's folder.

    Raises:
        UserError: the first row holds no image, and its path, if it has one, is not of a file.
    """
    if _surely_has_bytes(files, path):
        return None
    schema = _schema_of(files, path)
    column = column_of(path, schema, IMAGES)
    kind = schema.field(column).type
    if pa.types.is_null(kind):
        return None
    first = next(rows_of(files, path, "", 0, 1), None)
    if first is None:
        return None
    encoded, name = _bytes_and_path(first[0])
    # An empty entry is one unreadable image, which packing counts.
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    if not (is_text or is_bytes or pa.types.is_struct(kind)):
        raise UserError(
            f"{path} column {column!r} holds {kind}, not images; write the bytes of encoded files "
            "(JPEG or PNG), or their paths"
        )
    if encoded or not name:
        return None
    if PurePath(name).is_absolute() and files.local is not None:
        places = [_Place(Files("/"))]
    else:
        places = [_Place(files, str(PurePath(path).parent).strip(".")), _Place(files)]
    for place in places:
        if "://" not in name and place.files.is_file(place.below(name)):
            return place
    raise UserError(
        f"{path} row 0 has no image, only the path {_shortened(name)}, which is not a file "
        f"{'on this machine' if PurePath(name).is_absolute() else 'next to it'}; put the images "
        "there, or write their bytes into the column"
    )


def _shortened(text: str) -> str:
    """Return a text for a message: text that is no path may be a whole image in base64."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _test_split(files: Files, base: str) -> tuple[list[Entry], NDArray[np.int64], list[str]]:
    """Return files and labels of the first split for testing that has labels, and notes on it.

    Raises:
        UserError: there is none.
    """
    notes: list[str] = []
    for name in TEST_NAMES:
        entries = parquet_files(files, name, base)
        labels = labels_of(files, entries) if entries else np.empty(0, np.int64)
        # ImageNet's test files on the hub have -1 for every label; validation is used then.
        if (labels >= 0).any():
            return entries, labels, [f"{note}, so {name} is the test split" for note in notes]
        if entries:
            notes = [f"the {name} split has no labels"]
    raise UserError(
        f"{files} has no test split with labels; add test-*.parquet or validation-*.parquet"
    )


def _names_in_schema(files: Files, path: str) -> list[str] | None:
    """Return the class names in the metadata that `datasets` writes, or None."""
    schema = _schema_of(files, path)
    try:
        names = _features(schema)[column_of(path, schema, LABELS)]["names"]
    # There is no metadata, or it has another form.
    except (KeyError, TypeError):
        return None
    return list(map(str, names)) if isinstance(names, list) else None


def _hash(files: Files, entry: Entry, whole: bool) -> str:
    """Return the SHA-256 of a file, or of its size and footer."""
    if whole:
        return hashlib.sha256(files.read(entry.path)).hexdigest()
    # An Arrow stream has no footer. Its files are on this machine, where times are reliable.
    if entry.path.endswith(SUFFIX):
        return f"{entry.size} {entry.stamp}"
    # The last 8 bytes of a parquet file are the footer's length and a magic word.
    length = int.from_bytes(files.read(entry.path, entry.size - 8, 4), "little")
    footer = files.read(entry.path, entry.size - 8 - length, length)
    return hashlib.sha256(str(entry.size).encode() + footer).hexdigest()

"""Hugging Face-style parquet: an `image: {bytes, path}` column, a `label` column, names in the schema's metadata."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from beamclip.config import DataConfig, UserError
from beamclip.data.item import TEST_NAMES, Item, Split, digest
from beamclip.data.names import resolve_classes, wordnet_id
from beamclip.stores import file_hash

_IMAGES, _LABELS = ("image", "img"), ("label", "fine_label")  # the hub's CIFAR repositories use the second ones
_SMALL = 200 * 2**20  # bytes in all below which reading everything for a checksum costs little
_ROWS = 256  # rows in memory at a time: photographs can be megabytes each


def parquet_files(folder: Path, split: str) -> list[Path]:
    """A split's files, sorted: `train-*.parquet`, `train.parquet`, the same below data/, or all of train/."""
    patterns = (f"{split}-*.parquet", f"{split}.parquet", f"data/{split}-*.parquet", f"{split}/*.parquet")
    return next((found for found in (sorted(folder.glob(pattern)) for pattern in patterns) if found), [])


class ParquetSource:
    """Parquet files of one data set.

    Raises:
        UserError: a split or column is missing, a file is damaged, or the labels have no names.
    """

    def __init__(self, folder: Path, config: DataConfig) -> None:
        self._folder = folder
        self._files: dict[Split, list[Path]] = {"train": parquet_files(folder, "train")}
        if not self._files["train"]:
            raise UserError(f"{folder} has no train-*.parquet; name the files train-… and test-… or set data.source")
        self._labels: dict[Split, NDArray[np.int64]] = {"train": _labels(self._files["train"])}
        self._files["test"], self._labels["test"] = _test_split(folder)
        count = 1 + max(_largest(split, labels, folder) for split, labels in self._labels.items())
        self.names, keys = resolve_classes(config, _own_names(self._files["train"][0]), count)
        self.keys = keys if any(keys) else self._keys_in_paths()

    @cached_property
    def fingerprint(self) -> str:
        """Over small files' contents; over large ones' names, sizes and footers, which hold offsets and statistics."""
        files = [*self._files["train"], *self._files["test"]]
        hashed = map(file_hash if sum(path.stat().st_size for path in files) < _SMALL else _footer_hash, files)
        return digest(zip([str(path.relative_to(self._folder)) for path in files], hashed, strict=True))

    def count(self, split: Split) -> int:
        return len(self._labels[split])

    def items(self, split: Split) -> Iterator[Item]:
        for file in self._files[split]:
            for row, (image, label) in enumerate(_rows(file, "")):
                encoded, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
                yield Item(f"{file.name} row {row}{f' ({path})' if path else ''}", encoded or b"", label)

    def groups(self, split: Split) -> NDArray[np.int64] | None:
        return None

    def _keys_in_paths(self) -> tuple[str | None, ...]:
        """ImageNet's files are called after their class; read until each class has shown its id."""
        keys: dict[int, str] = {}
        wanted = set(np.unique(self._labels["train"]).tolist())
        for path, label in (pair for file in self._files["train"] for pair in _rows(file, ".path")):
            key = wordnet_id(str((path or {}).get("path")))
            if key is None or keys.setdefault(label, key) != key:
                return (None,) * len(self.names)
            if wanted == keys.keys():
                break
        return tuple(keys.get(label) for label in range(len(self.names)))


def _largest(split: Split, labels: NDArray[np.int64], folder: Path) -> int:
    if labels.size and labels.min() < 0:
        raise UserError(f"{folder} has the label {labels.min()} in its {split} split; write class indices from 0")
    return int(labels.max(initial=-1))


def _test_split(folder: Path) -> tuple[list[Path], NDArray[np.int64]]:
    for files in (parquet_files(folder, name) for name in TEST_NAMES):
        labels = _labels(files) if files else np.empty(0, np.int64)
        if (labels >= 0).any():  # ImageNet's test files on the hub have -1 for every label: then we test on validation
            return files, labels
    raise UserError(f"{folder} has no test split with labels; add test-*.parquet or validation-*.parquet")


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} can't be read as parquet ({str(error).splitlines()[0]}); fetch it again") from None


def _column(path: Path, schema: pa.Schema, known: Sequence[str]) -> str:
    found = next((name for name in known if name in schema.names), None)
    if found is None:
        raise UserError(f"{path} has no column {known[0]!r}, only {', '.join(schema.names)}; rename one of them")
    return found


def _labels(files: list[Path]) -> NDArray[np.int64]:
    return np.concatenate([_labels_of(path) for path in files])


def _labels_of(path: Path) -> NDArray[np.int64]:
    with _open(path) as file:
        _column(path, file.schema_arrow, _IMAGES)
        name = _column(path, file.schema_arrow, _LABELS)
        column = file.read(columns=[name]).column(0)
    if not pa.types.is_integer(column.type) or column.null_count:
        raise UserError(f"{path} column {name!r} must hold whole numbers, no nulls; write class indices from 0")
    return np.asarray(column.to_numpy(), np.int64)


def _rows(path: Path, field: str) -> Iterator[tuple[Any, int]]:
    """Image and label of each row; `field` is `.path` to read the paths alone."""
    with _open(path) as file:
        image, label = (_column(path, file.schema_arrow, known) for known in (_IMAGES, _LABELS))
        if field and not pa.types.is_struct(file.schema_arrow.field(image).type):
            return
        for batch in file.iter_batches(_ROWS, columns=[f"{image}{field}", label]):
            yield from zip(batch.column(image).to_pylist(), batch.column(label).to_pylist(), strict=True)


def _own_names(path: Path) -> list[str] | None:
    with _open(path) as file:
        schema = file.schema_arrow
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[_column(path, schema, _LABELS)]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return list(map(str, names)) if isinstance(names, list) else None


def _footer_hash(path: Path) -> str:
    """SHA-256 over size and footer. The last 8 bytes of a parquet file are its footer's length and a magic word."""
    with path.open("rb") as file:
        size = file.seek(-8, 2) + 8
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, 2)
        return hashlib.sha256(str(size).encode() + file.read(length)).hexdigest()

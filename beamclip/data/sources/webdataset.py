"""Tar shards as WebDataset writes them, or tars of class folders: indexed once by their headers, read in place."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamclip.config import DataConfig, UserError
from beamclip.data.base import SPLITS, TEST_NAMES, Item, Split, digest, name_column
from beamclip.data.class_names import class_names_in, resolve_classes
from beamclip.data.files import Entry, Files, LazyBytes
from beamclip.data.sources.tar_index import READ_VERSION, Label, begins_labelled, samples_in

_NAME_FILES = ("classnames.txt", "classes.txt")


def tar_files(files: Files, split: str) -> list[Entry]:
    """A split's shards, sorted: all of `train/*.tar`, else those in the folder itself with the split's word in their names."""
    inside = [entry for entry in files.files(split) if entry.path.endswith(".tar")]
    words = (f"{split}.tar", f"{split}[-_]*.tar", f"*[-_]{split}[-_]*.tar", f"*[-_]{split}.tar")
    return inside or [
        entry for entry in files.files() if any(fnmatch(entry.path, word) for word in words)
    ]


@dataclass(frozen=True)
class _Index:
    """All samples of a split, column by column.

    shard: number of the shard. start, size: of the image's bytes in it. label: as the shards have it. name: there.
    """

    shard: NDArray[np.int64]
    start: NDArray[np.int64]
    size: NDArray[np.int64]
    label: Any
    name: Any


class TarSource:
    """Tar shards of one data set. A sample's label is its `.cls` or `.json`, or the folder it lies in.

    Headers are read once, when the samples are first asked for; images are then read from where they lie in their shards.

    Raises:
        UserError: a split is missing, or the classes have no names.
    """

    def __init__(self, files: Files, config: DataConfig) -> None:
        self._files, self._config = files, config
        self._shards: dict[Split, list[Entry]] = {"train": tar_files(files, "train")}
        self._shards["test"] = next(
            filter(None, (tar_files(files, name) for name in TEST_NAMES)), []
        )
        for split, shards in self._shards.items():
            if not shards:
                names = "train-*.tar" if split == "train" else "test-*.tar or val-*.tar"
                raise UserError(
                    f"{files} has no {split} shards; name them {names}, or put them into a folder {split}/"
                )
        facts = ((split, entry) for split in SPLITS for entry in files.stamped(self._shards[split]))
        self.fingerprint = digest([("read", READ_VERSION), *facts])
        """Over names, sizes and stamps of the shards, and how they are read; contents are not."""
        self.names, self.keys = self._classes()

    def _classes(self) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
        beside = self._beside()
        if self._folders is not None:
            return resolve_classes(
                self._config, self._folders, len(self._folders), exact=True, beside=beside
            )
        if beside is None and self._config.class_names is None:
            raise UserError(
                f"{self._files} has no class names; list them in {_NAME_FILES[0]} there, or give data.class_names"
            )
        return resolve_classes(self._config, beside and beside[0], 1)

    def _beside(self) -> tuple[tuple[str, ...], str] | None:
        """Names from a list that lies beside the shards, and what a sentence calls it."""
        there = {entry.path for entry in self._files.files()}
        name = next((name for name in _NAME_FILES if name in there), None)
        where = f"{self._files}/{name}"
        return None if name is None else (class_names_in(self._files.read(name), where), where)

    def count(self, split: Split) -> int:
        return len(self._index[split].label)

    def items(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Item]:
        index, labels = self._index[split], self._labels[split][start:stop].tolist()
        columns = (index.shard, index.start, index.size)
        places = zip(*(column[start:stop].tolist() for column in columns), strict=True)
        for (shard, at, size), label, name in zip(
            places, labels, index.name[start:stop], strict=True
        ):
            path = self._shards[split][shard].path
            yield Item(f"{path} {name.as_py()}", LazyBytes(self._files, path, at, size), label)

    def groups(self, split: Split) -> NDArray[np.int64] | None:
        return None

    @cached_property
    def _index(self) -> dict[Split, _Index]:
        return {
            split: _indexed(self._files, shards, split) for split, shards in self._shards.items()
        }

    @cached_property
    def _folders(self) -> list[str] | None:
        """The class folders, sorted; None where labels are numbers, for which the rest of the headers need not be read yet."""
        if begins_labelled(self._files, self._shards["train"][0].path):
            return None
        labels = set(self._index["train"].label)
        return sorted(map(str, labels)) if all(isinstance(label, str) for label in labels) else None

    @cached_property
    def _labels(self) -> dict[Split, NDArray[np.int64]]:
        return {split: self._numbered(split) for split in SPLITS}

    def _numbered(self, split: Split) -> NDArray[np.int64]:
        numbers: dict[Label, int] = {
            name: number for number, name in enumerate(self._folders or ())
        }
        numbers |= {} if self._folders else {number: number for number in range(len(self.names))}
        unknown = sorted(set(self._index[split].label) - numbers.keys(), key=str)
        if unknown:
            classes = f"none of its {len(self.names)} classes; mend the label or the list of names"
            raise UserError(
                f"{self._files} has the label {unknown[0]} in its {split} shards, which is {classes}"
            )
        return np.array([numbers[label] for label in self._index[split].label], np.int64)


def _indexed(files: Files, shards: list[Entry], split: Split) -> _Index:
    samples = [
        (number, sample)
        for number, entry in enumerate(shards)
        for sample in samples_in(files, entry.path)
    ]
    if not samples:
        raise UserError(
            f"{files} has no images in its {split} shards; write some, or mend data.path"
        )
    places = np.array(
        [(number, sample.start, sample.size) for number, sample in samples], np.int64
    ).reshape(-1, 3)
    labels = np.array([sample.label for _, sample in samples], object)
    names = name_column([sample.name for _, sample in samples], f"a shard of {files}")
    return _Index(places[:, 0], places[:, 1], places[:, 2], labels, names)

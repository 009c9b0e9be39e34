"""Read tar shards as WebDataset writes them, or tars of class folders.

Shards are indexed once by their headers, and images are read in place. The webdataset package reads
shards as a stream; packing needs item n of a shard, and an order that never changes.
"""

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
    """Return a split's shards, sorted.

    These are all of `SPLIT/*.tar`, otherwise those in the folder itself with the split in their
    names.
    """
    inside = [entry for entry in files.files(split) if entry.path.endswith(".tar")]
    if inside:
        return inside
    patterns = (f"{split}.tar", f"{split}[-_]*.tar", f"*[-_]{split}[-_]*.tar", f"*[-_]{split}.tar")
    entries = []
    for entry in files.files():
        if any(fnmatch(entry.path, pattern) for pattern in patterns):
            entries.append(entry)
    return entries


@dataclass(frozen=True)
class _Index:
    """All samples of a split, column by column.

    Attributes:
        shard: number of the shard.
        start: offset of the image's bytes in it.
        size: number of the image's bytes.
        label: as the shard has it.
        name: of the image in the shard.
    """

    shard: NDArray[np.int64]
    start: NDArray[np.int64]
    size: NDArray[np.int64]
    label: Any
    name: Any


class TarSource:
    """Tar shards of one data set. A sample's label is its `.cls` or `.json`, or its folder.

    Headers are read once, when samples are first needed; images are then read in place.

    Raises:
        UserError: a split is missing, or the classes have no names.
    """

    def __init__(self, files: Files, config: DataConfig) -> None:
        self._files = files
        self._config = config
        self._shards: dict[Split, list[Entry]] = {"train": tar_files(files, "train")}
        self._shards["test"] = next(
            filter(None, (tar_files(files, name) for name in TEST_NAMES)), []
        )
        for split, shards in self._shards.items():
            if not shards:
                names = "train-*.tar" if split == "train" else "test-*.tar or val-*.tar"
                raise UserError(
                    f"{files} has no {split} shards; name them {names}, or put them into a folder "
                    f"{split}/"
                )
        facts = ((split, entry) for split in SPLITS for entry in files.stamped(self._shards[split]))
        self.fingerprint = digest([("read", READ_VERSION), *facts])
        """Changes with names, sizes and stamps of the shards; their contents are not read."""
        self.names, self.keys = self._classes()

    def _classes(self) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
        name_list = self._name_list()
        if self._folders is not None:
            return resolve_classes(
                self._config, self._folders, len(self._folders), exact=True, name_list=name_list
            )
        if name_list is None and self._config.class_names is None:
            raise UserError(
                f"{self._files} has no class names; list them in {_NAME_FILES[0]} there, or give "
                "data.class_names"
            )
        return resolve_classes(self._config, name_list and name_list[0], 1)

    def _name_list(self) -> tuple[tuple[str, ...], str] | None:
        """Return the class names in a list next to the shards, and the list's name for messages."""
        paths = {entry.path for entry in self._files.files()}
        for name in _NAME_FILES:
            if name in paths:
                where = f"{self._files}/{name}"
                return class_names_in(self._files.read(name), where), where
        return None

    def count(self, split: Split) -> int:
        """Return the number of samples of a split."""
        return len(self._index[split].label)

    def items(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Item]:
        """Return items `start` to `stop` of a split."""
        index = self._index[split]
        rows = zip(
            index.shard[start:stop].tolist(),
            index.start[start:stop].tolist(),
            index.size[start:stop].tolist(),
            self._labels[split][start:stop].tolist(),
            index.name[start:stop],
            strict=True,
        )
        for shard, offset, size, label, name in rows:
            path = self._shards[split][shard].path
            yield Item(f"{path} {name.as_py()}", LazyBytes(self._files, path, offset, size), label)

    def groups(self, split: Split) -> NDArray[np.int64] | None:
        """Return None: shards know no groups."""
        return None

    @cached_property
    def _index(self) -> dict[Split, _Index]:
        return {
            split: _indexed(self._files, shards, split) for split, shards in self._shards.items()
        }

    @cached_property
    def _folders(self) -> list[str] | None:
        """The class folders, sorted; None if labels are numbers."""
        # In that case the other headers need not be read yet.
        if begins_labelled(self._files, self._shards["train"][0].path):
            return None
        labels = set(self._index["train"].label)
        if not all(isinstance(label, str) for label in labels):
            return None
        return sorted(map(str, labels))

    @cached_property
    def _labels(self) -> dict[Split, NDArray[np.int64]]:
        return {split: self._numbered(split) for split in SPLITS}

    def _numbered(self, split: Split) -> NDArray[np.int64]:
        numbers: dict[Label, int]
        if self._folders:
            numbers = {name: number for number, name in enumerate(self._folders)}
        else:
            numbers = {number: number for number in range(len(self.names))}
        unknown = sorted(set(self._index[split].label) - numbers.keys(), key=str)
        if unknown:
            raise UserError(
                f"{self._files} has the label {unknown[0]} in its {split} shards, which is none of "
                f"its {len(self.names)} classes; fix the label or the list of names"
            )
        return np.array([numbers[label] for label in self._index[split].label], np.int64)


def _indexed(files: Files, shards: list[Entry], split: Split) -> _Index:
    samples = []
    for number, entry in enumerate(shards):
        samples += [(number, sample) for sample in samples_in(files, entry.path)]
    if not samples:
        raise UserError(
            f"{files} has no images in its {split} shards; write some, or fix data.path"
        )
    spans = np.array(
        [(number, sample.start, sample.size) for number, sample in samples], np.int64
    ).reshape(-1, 3)
    labels = np.array([sample.label for _, sample in samples], object)
    names = name_column([sample.name for _, sample in samples], f"a shard of {files}")
    return _Index(spans[:, 0], spans[:, 1], spans[:, 2], labels, names)

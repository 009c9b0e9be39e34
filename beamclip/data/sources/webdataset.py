"""Read tar shards as WebDataset writes them, or tars of class folders.

Shards are indexed once by their headers, and images are read at their offsets. The webdataset
package only reads shards as a stream, but packing needs item n of a shard.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamclip.config import DataConfig, UserError
from beamclip.data.base import (
    SPLITS,
    TEST_NAMES,
    Item,
    Split,
    class_notes,
    digest,
    name_column,
)
from beamclip.data.class_names import (
    Classes,
    NameList,
    check_first_name,
    check_spelled_once,
    composed,
    name_list_in,
    resolve_classes,
)
from beamclip.data.files import Entry, Files, LazyBytes
from beamclip.data.sources.tar_index import (
    READ_VERSION,
    Label,
    Sample,
    begins_labeled,
    folders_in,
    samples_in,
)

_NAME_FILES = ("classnames.txt", "classes.txt")
"""Names of a list of class names next to the shards, in order of preference."""


def tar_files(files: Files, split: str) -> list[Entry]:
    """Return a split's shards, sorted; an empty list if there are none.

    These are `SPLIT/*.tar`. Without such files, they are the tars in the data set's folder that
    have the split in their names.
    """
    in_folder = [entry for entry in files.files(split) if entry.path.endswith(".tar")]
    if in_folder:
        return in_folder
    patterns = (f"{split}.tar", f"{split}[-_]*.tar", f"*[-_]{split}[-_]*.tar", f"*[-_]{split}.tar")
    entries = []
    for entry in files.files():
        if any(fnmatch(entry.path, pattern) for pattern in patterns):
            entries.append(entry)
    return entries


@dataclass(frozen=True)
class _Index:
    """All N samples of a split, as columns of N entries each.

    Attributes:
        shard: number of the shard.
        start: offset of the image's first byte in the shard.
        size: size of the image in bytes.
        label: a class index or a folder, see `tar_index.Label`; an array of objects.
        name: path of the image in the shard; an Arrow array.
    """

    shard: NDArray[np.int64]
    start: NDArray[np.int64]
    size: NDArray[np.int64]
    label: Any
    name: Any


class TarSource:
    """Tar shards of one data set. A sample's label is its `.cls` or `.json`, or its folder.

    All headers are read when samples are first needed. A data set that is packed already, and whose
    labels are numbers, is opened without them.

    Raises:
        UserError: a split is missing, or the classes have no names.
    """

    def __init__(self, files: Files, config: DataConfig) -> None:
        self._files = files
        self._config = config
        self._shards: dict[Split, list[Entry]] = {"train": tar_files(files, "train"), "test": []}
        self._indices: dict[Split, _Index] = {}
        self._layout_notes: list[str] = []
        tests = [(name, tar_files(files, name)) for name in TEST_NAMES]
        tests = [(name, shards) for name, shards in tests if shards]
        if tests:
            self._shards["test"] = tests[0][1]
        # The first one may have no labels, like ImageNet's. Its headers are read only if there is
        # another one to choose.
        if len(tests) > 1 and self._shards["train"] and not self._is_labeled(tests[0][1][0].path):
            self._shards["test"] = tests[1][1]
            self._layout_notes.append(
                f"the {tests[0][0]} shards have no labels of the training classes, so the "
                f"{tests[1][0]} shards are the test split"
            )
        for split, shards in self._shards.items():
            if not shards:
                names = "train-*.tar" if split == "train" else "test-*.tar or val-*.tar"
                raise UserError(
                    f"{files} has no {split} shards; name them {names}, or put them into a folder "
                    f"{split}/"
                )
        facts: list[object] = [("read", READ_VERSION)]
        for split in SPLITS:
            facts += [(split, entry) for entry in files.stamped(self._shards[split])]
        self.fingerprint = digest(facts)
        """Changes with names, sizes and stamps of the shards; their contents are not read."""
        self.names, self.keys = self._classes()

    def _is_labeled(self, path: str) -> bool:
        """Return whether a shard has labels next to its images, or folders of the classes."""
        folders = folders_in(self._files, path)
        if folders is None:
            return True
        # One split may store é as one character, the other as an e and an accent.
        own = set(map(composed, self._folders or ()))
        return not own.isdisjoint(map(composed, folders))

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """See `Source`. All headers are read."""
        classes = class_notes(self.names, self._labels["train"], self._labels["test"])
        return (*self._layout_notes, *classes)

    def _classes(self) -> Classes:
        """Return names and WordNet ids of the classes; see `resolve_classes`."""
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
        # The number of labels isn't known before all headers are read, so it is checked later.
        list_names = None
        if name_list is not None and self._config.class_names is not None:
            list_names = name_list.names
        return resolve_classes(self._config, list_names, count=1, name_list=name_list)

    def _name_list(self) -> NameList | None:
        """Return the list of class names next to the shards, if there is one."""
        paths = {entry.path for entry in self._files.files()}
        for name in _NAME_FILES:
            if name in paths:
                where = f"{self._files}/{name}"
                return name_list_in(self._files.read(name), where)
        return None

    def count(self, split: Split) -> int:
        """Return the number of samples of a split."""
        return len(self._index_of(split).label)

    def items(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Item]:
        """Yield items `start` to `stop` of a split."""
        index = self._index_of(split)
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
        """Return None: shards have no groups."""
        return None

    def _index_of(self, split: Split) -> _Index:
        """Return the index of a split. Its headers are read once."""
        if split not in self._indices:
            self._indices[split] = _index_shards(self._files, self._shards[split], split)
        return self._indices[split]

    @cached_property
    def _folders(self) -> list[str] | None:
        """The class folders, sorted; None if labels are numbers."""
        # Usually the first image shows it, so not all headers have to be read.
        if begins_labeled(self._files, self._shards["train"][0].path):
            return None
        labels = set(self._index_of("train").label)
        if not all(isinstance(label, str) for label in labels):
            return None
        folders = sorted(map(str, labels))
        check_spelled_once(folders, f"a train shard of {self._files}")
        return folders

    @cached_property
    def _labels(self) -> dict[Split, NDArray[np.int64]]:
        labels = {split: self._class_indices(split) for split in SPLITS}
        if self._folders is None:
            largest = max(int(indices.max(initial=-1)) for indices in labels.values())
            where = self._config.class_names or f"the list of names in {self._files}"
            check_first_name(self.names, largest + 1, where)
        return labels

    def _class_indices(self, split: Split) -> NDArray[np.int64]:
        """Return the class index of each sample of a split.

        Raises:
            UserError: a label is none of the classes.
        """
        indices: dict[Label, int]
        if self._folders:
            # One split may store é as one character, the other as an e and an accent.
            own = {composed(folder): index for index, folder in enumerate(self._folders)}
            names = {*self._folders, *map(str, self._index_of(split).label)}
            indices = {name: own[composed(name)] for name in names if composed(name) in own}
        else:
            indices = {index: index for index in range(len(self.names))}
        labels = self._index_of(split).label
        # By text, because numbers and folders can't be compared.
        unknown = sorted(set(labels) - indices.keys(), key=str)
        if unknown:
            raise UserError(
                f"{self._files} has the label {unknown[0]} in its {split} shards, which is none of "
                f"its {len(self.names)} classes; fix the label or the list of names"
            )
        return np.array([indices[label] for label in labels], np.int64)


def _index_shards(files: Files, shards: list[Entry], split: Split) -> _Index:
    """Read the headers of a split's shards.

    Raises:
        UserError: a shard is damaged, or there are no images.
    """
    samples: list[tuple[int, Sample]] = []
    for number, entry in enumerate(shards):
        samples += [(number, sample) for sample in samples_in(files, entry.path)]
    if not samples:
        raise UserError(
            f"{files} has no images in its {split} shards; write some, or fix data.path"
        )
    spans = np.array([(number, sample.start, sample.size) for number, sample in samples], np.int64)
    # Of objects, because labels are numbers or folders.
    labels = np.array([sample.label for _, sample in samples], object)
    names = name_column([sample.name for _, sample in samples], f"a shard of {files}")
    return _Index(spans[:, 0], spans[:, 1], spans[:, 2], labels, names)

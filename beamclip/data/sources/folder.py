"""Read images in folders, as torchvision's ImageFolder: train/CLASS/FILE and test/CLASS/FILE."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamclip.config import DataConfig, UserError
from beamclip.data.base import SPLITS, TEST_NAMES, Item, Split, digest, name_column
from beamclip.data.class_names import resolve_classes
from beamclip.data.files import Files, LazyBytes


class FolderSource:
    """A folder tree. Every file that is not hidden counts as an image until it is packed.

    The test split is `test/`, otherwise `val/` or `validation/`. File names are kept in one Arrow
    array a split: a million of them take tens of megabytes, here and in every process the source
    is sent to.

    Raises:
        UserError: a split is missing or empty, or the splits have different classes.
    """

    def __init__(self, files: Files, config: DataConfig) -> None:
        self._files = files
        self._roots: dict[Split, str] = {"train": "train", "test": _test_root(files)}
        self._classes = _class_folders(files, "train")
        _check_same(files, self._roots["test"], self._classes)
        self.names, self.keys = resolve_classes(
            config, self._classes, len(self._classes), exact=True
        )
        listed = {split: _listed(files, root, self._classes) for split, root in self._roots.items()}
        self._paths: dict[Split, Any] = {
            split: name_column(paths, str(files)) for split, (paths, _, _) in listed.items()
        }
        self._labels: dict[Split, NDArray[np.int64]] = {
            split: np.array(labels, np.int64) for split, (_, labels, _) in listed.items()
        }
        self.fingerprint = digest((split, facts) for split in SPLITS for facts in listed[split][2])
        """Changes with paths, sizes and times (or other stamps) of the files; contents are not
        read."""

    def count(self, split: Split) -> int:
        """Return the number of files of a split."""
        return len(self._paths[split])

    def items(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Item]:
        """Return items `start` to `stop` of a split."""
        root = self._roots[split]
        labels = self._labels[split][start:stop].tolist()
        for path, label in zip(self._paths[split][start:stop], labels, strict=True):
            name = f"{root}/{path.as_py()}"
            yield Item(name, LazyBytes(self._files, name), label)

    def groups(self, split: Split) -> NDArray[np.int64] | None:
        """Return None: a folder knows no groups."""
        return None


def _test_root(files: Files) -> str:
    for name in TEST_NAMES:
        if files.is_folder(name):
            return name
    raise UserError(
        f"{files} has no test split; put one folder a class into {files}/test or {files}/val"
    )


def _class_folders(files: Files, root: str) -> list[str]:
    if not files.is_folder(root):
        raise UserError(
            f"{files}/{root} does not exist; put one folder a class into it, or fix data.source"
        )
    classes = files.folders(root)
    if not classes:
        raise UserError(
            f"{files}/{root} has no class folders; put each class's images into a folder of its own"
        )
    return classes


def _check_same(files: Files, test: str, classes: list[str]) -> None:
    odd = sorted(set(classes) ^ set(_class_folders(files, test)))
    if odd:
        has, lacks = ("train", test) if odd[0] in classes else (test, "train")
        raise UserError(
            f"class {odd[0]} is in {files}/{has} but not in {files}/{lacks}; give both the same "
            "class folders"
        )


Listed = tuple[list[str], list[int], list[Any]]
"""Paths below the split's folder, labels, and the facts for the fingerprint."""


def _listed(files: Files, root: str, classes: Iterable[str]) -> Listed:
    paths: list[str] = []
    labels: list[int] = []
    facts: list[Any] = []
    for label, name in enumerate(classes):
        for entry in files.stamped(files.below(f"{root}/{name}")):
            paths.append(entry.path.removeprefix(f"{root}/"))
            labels.append(label)
            facts.append((paths[-1], entry.size, entry.stamp))
    if not paths:
        raise UserError(f"the class folders in {files}/{root} are empty; put images into them")
    return paths, labels, facts

"""Images in folders, as torchvision's ImageFolder reads them: train/CLASS/FILE and test/CLASS/FILE (or val/)."""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beamclip.config import DataConfig, UserError
from beamclip.data.item import SPLITS, TEST_NAMES, Item, Split, digest
from beamclip.data.names import resolve_classes


class FolderSource:
    """A folder tree. Every file that is not hidden counts as an image; what isn't one is found at packing.

    Raises:
        UserError: a split is missing or empty, or the splits have different classes.
    """

    def __init__(self, folder: Path, config: DataConfig) -> None:
        self._roots: dict[Split, Path] = {"train": folder / "train", "test": _test_root(folder)}
        self._classes = _class_folders(self._roots["train"])
        _check_same(self._roots, self._classes)
        self.names, self.keys = resolve_classes(config, self._classes, len(self._classes), exact=True)
        self._files = {split: _files(root, self._classes) for split, root in self._roots.items()}

    @cached_property
    def fingerprint(self) -> str:
        """Over paths, sizes and times of change; contents are not read."""
        return digest(self._facts())

    def _facts(self) -> Iterator[object]:
        for split in SPLITS:
            for path, _ in self._files[split]:
                status = (self._roots[split] / path).stat()
                yield split, path, status.st_size, status.st_mtime_ns

    def count(self, split: Split) -> int:
        return len(self._files[split])

    def items(self, split: Split) -> Iterator[Item]:
        root = self._roots[split]
        return (Item(f"{root.name}/{path}", root / path, label) for path, label in self._files[split])

    def groups(self, split: Split) -> NDArray[np.int64] | None:
        return None


def _test_root(folder: Path) -> Path:
    for root in (folder / name for name in TEST_NAMES):
        if root.is_dir():
            return root
    raise UserError(f"{folder} has no test split; put one folder a class into {folder / 'test'} or {folder / 'val'}")


def _class_folders(root: Path) -> list[str]:
    if not root.is_dir():
        raise UserError(f"{root} does not exist; put one folder a class into it, or mend data.source")
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"{root} holds no class folders; put each class's images into a folder of its own")
    return classes


def _check_same(roots: dict[Split, Path], classes: list[str]) -> None:
    odd = sorted(set(classes) ^ set(_class_folders(roots["test"])))
    if odd:
        has, lacks = (roots["train"], roots["test"]) if odd[0] in classes else (roots["test"], roots["train"])
        raise UserError(f"class {odd[0]} is in {has} but not in {lacks}; give both the same class folders")


def _files(root: Path, classes: list[str]) -> list[tuple[str, int]]:
    """Paths relative to the root, with labels, sorted within each class."""
    files = [(path, label) for label, name in enumerate(classes) for path in sorted(_below(root / name, name))]
    if not files:
        raise UserError(f"the class folders in {root} are empty; put images into them")
    return files


def _below(folder: Path, prefix: str) -> Iterator[str]:
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _below(Path(entry.path), f"{prefix}/{entry.name}")
        else:
            yield f"{prefix}/{entry.name}"

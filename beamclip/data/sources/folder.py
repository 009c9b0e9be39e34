"""Read images in folders as torchvision's ImageFolder: train/CLASS/FILE and test/CLASS/FILE."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
from beamclip.data.class_names import check_spelled_once, composed, resolve_classes
from beamclip.data.files import Files, LazyBytes

_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
"""Files that Windows and macOS leave in folders of images, in lower case."""
_SYSTEM_FOLDERS = {"@eadir", "#recycle", "$recycle.bin", "__macosx", "lost+found"}
"""Folders that storage servers, Windows and macOS make, in lower case."""


class FolderSource:
    """A folder tree.

    The test split is the first of `test/`, `val/`, `validation/` and `valid/` that has images in
    folders of the classes. ImageNet's own `test/` has none.

    Every file counts as an image, except hidden ones and those that an operating system leaves,
    such as `Thumbs.db`. Packing lists those it can't decode.

    Raises:
        UserError: a split is missing or empty, or the splits have different classes.
    """

    def __init__(self, files: Files, config: DataConfig) -> None:
        self._files = files
        self._classes = _class_folders(files, "train")
        test_root, layout_notes = _test_root(files, self._classes)
        self._roots: dict[Split, str] = {"train": "train", "test": test_root}
        test_classes = _class_folders(files, test_root)
        _check_same_classes(files, test_root, self._classes, test_classes)
        # Labels are the positions of the sorted folders, so a list must have a name for each.
        self.names, self.keys = resolve_classes(
            config, self._classes, len(self._classes), exact=True
        )
        self._paths: dict[Split, Any] = {}
        self._labels: dict[Split, NDArray[np.int64]] = {}
        facts: list[tuple[Split, _Fact]] = []
        left_out: list[str] = []
        for split in SPLITS:
            folders = self._classes
            if split == "test":
                # One split may store é as one character, the other as an e and an accent.
                spellings = {composed(name): name for name in test_classes}
                folders = [spellings[composed(name)] for name in self._classes]
            listing = _list_images(files, self._roots[split], folders)
            self._paths[split] = name_column(listing.paths, str(files))
            self._labels[split] = np.array(listing.labels, np.int64)
            facts += [(split, fact) for fact in listing.facts]
            left_out += listing.left_out
        if left_out:
            layout_notes.append(
                f"files of the operating system left out: {len(left_out)} ({left_out[0]})"
            )
        class_sentences = class_notes(self.names, self._labels["train"], self._labels["test"])
        self.notes: tuple[str, ...] = (*layout_notes, *class_sentences)
        self.fingerprint = digest(facts)
        """Changes with the files' paths, sizes and stamps (mostly times); contents are not read."""

    def count(self, split: Split) -> int:
        """Return the number of files of a split."""
        return len(self._paths[split])

    def items(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Item]:
        """Yield items `start` to `stop` of a split."""
        root = self._roots[split]
        labels = self._labels[split][start:stop].tolist()
        for path, label in zip(self._paths[split][start:stop], labels, strict=True):
            name = f"{root}/{path.as_py()}"
            yield Item(name, LazyBytes(self._files, name), label)

    def groups(self, split: Split) -> NDArray[np.int64] | None:
        """Return None: folders have no groups."""
        return None


def _test_root(files: Files, classes: list[str]) -> tuple[str, list[str]]:
    """Return the name of the folder with the test split, and what to tell the user about it.

    Raises:
        UserError: there is no such folder, or none has images in folders of the classes.
    """
    present = [name for name in TEST_NAMES if files.is_folder(name)]
    if not present:
        raise UserError(
            f"{files} has no test split; put one folder per class into {files}/test or {files}/val"
        )
    for number, name in enumerate(present):
        if not _has_labeled_images(files, name, classes):
            continue
        if number == 0:
            return name, []
        unlabeled = " and ".join(f"{skipped}/" for skipped in present[:number])
        verb = "has" if number == 1 else "have"
        return name, [
            f"{unlabeled} {verb} no images in class folders, so {name}/ is the test split"
        ]
    if len(present) > 1 and not any(_shared_folders(files, name, classes) for name in present):
        folders = " nor ".join(f"{name}/" for name in present)
        raise UserError(
            f"{files} has train/ in class folders, but neither {folders}; put the images of one of "
            "them into class folders as in train/"
        )
    # The checks that follow say what is wrong with it.
    return present[0], []


def _has_labeled_images(files: Files, root: str, classes: list[str]) -> bool:
    """Return whether a split's folder has a file in a folder of one of the classes."""
    # Usually the first class has images, so only one folder is listed.
    for name in _shared_folders(files, root, classes):
        if any(not _is_of_system(entry.path) for entry in files.below(f"{root}/{name}")):
            return True
    return False


def _shared_folders(files: Files, root: str, classes: list[str]) -> list[str]:
    """Return the folders in a split's folder that have the name of a class, sorted."""
    # One split may store é as one character, the other as an e and an accent.
    own = set(map(composed, classes))
    return [name for name in files.folders(root) if composed(name) in own]


def _class_folders(files: Files, root: str) -> list[str]:
    """Return the names of the class folders in a split's folder, sorted."""
    if not files.is_folder(root):
        raise UserError(
            f"{files}/{root} does not exist; put one folder per class into it, or fix data.source"
        )
    classes = [name for name in files.folders(root) if name.lower() not in _SYSTEM_FOLDERS]
    if not classes:
        raise UserError(
            f"{files}/{root} has no class folders; put each class's images into its own folder"
        )
    return classes


def _check_same_classes(
    files: Files, test: str, classes: list[str], test_classes: list[str]
) -> None:
    """Raise UserError if the splits have different class folders: labels would not agree."""
    for root, folders in (("train", classes), (test, test_classes)):
        check_spelled_once(folders, f"{files}/{root}")
    own, others = set(map(composed, classes)), set(map(composed, test_classes))
    unmatched = sorted(own ^ others)
    if unmatched:
        name = unmatched[0]
        has, lacks = ("train", test) if name in own else (test, "train")
        raise UserError(
            f"class {name} is in {files}/{has} but not in {files}/{lacks}; give both the same "
            "class folders"
        )


_Fact = tuple[str, int, str]
"""Path below the split's folder, size in bytes, and stamp of a file."""


@dataclass(frozen=True)
class _Listing:
    """The images of a split.

    Attributes:
        paths: paths of the files below the split's folder.
        labels: labels of the images.
        facts: path, size and stamp of each file, for the fingerprint.
        left_out: paths of the operating system's files below the data set's folder.
    """

    paths: list[str]
    labels: list[int]
    facts: list[_Fact]
    left_out: list[str]


def _list_images(files: Files, root: str, classes: Iterable[str]) -> _Listing:
    """List the files in the class folders of a split.

    Raises:
        UserError: there are none.
    """
    listing = _Listing([], [], [], [])
    for label, name in enumerate(classes):
        for entry in files.stamped(files.below(f"{root}/{name}")):
            if _is_of_system(entry.path):
                listing.left_out.append(entry.path)
                continue
            path = entry.path.removeprefix(f"{root}/")
            listing.paths.append(path)
            listing.labels.append(label)
            listing.facts.append((path, entry.size, entry.stamp))
    if not listing.paths:
        raise UserError(f"the class folders in {files}/{root} are empty; put images into them")
    return listing


def _is_of_system(path: str) -> bool:
    """Return whether a path is of a file that an operating system made, not of an image."""
    *folders, name = path.lower().split("/")
    return name in _SYSTEM_FILES or not _SYSTEM_FOLDERS.isdisjoint(folders)

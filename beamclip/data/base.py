"""Sources of images: labeled items in a fixed order, in two splits, with a fingerprint."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beamclip.config import UserError
from beamclip.data.files import LazyBytes

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
TEST_NAMES = ("test", "val", "validation", "valid")
"""Names under which a data set may have its test split, in order of preference.

A data set's own validation split serves as test, because val is always taken from train.
"""


@dataclass(frozen=True)
class Item:
    """One labeled image, not decoded yet.

    Attributes:
        name: its name in messages, unique within a source.
        image: bytes of an encoded file, read or not read yet, or pixels, uint8 [H, W, 3].
        label: class index, from 0.
    """

    name: str
    image: bytes | LazyBytes | NDArray[np.uint8]
    label: int


class Source(Protocol):
    """A source of images. Items always come in the same order.

    Sources are pickled to the processes that pack. Pixels and open files are left out.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, in label order."""

    @property
    def keys(self) -> tuple[str | None, ...]:
        """WordNet id of each class, such as n01440764, if the source knows it; None otherwise."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change when the images or labels do."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Return sentences for users on what was guessed or is unusual, without full stops."""

    def count(self, split: Split) -> int:
        """Return the number of items of a split, unreadable ones included."""

    def items(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Item]:
        """Yield items `start` to `stop` of a split, without reading those before `start`.

        Packing calls this once for each shard, so reading the items before would make it quadratic.
        """

    def groups(self, split: Split) -> NDArray[np.int64] | None:
        """Return the group of each item, such as its camera: [count], or None without groups.

        A group is never divided between train and val.
        """


def name_column(names: Sequence[str], where: str) -> Any:
    """Return file names as one Arrow array.

    A million names take tens of megabytes there, in memory and in a pickled source.

    Args:
        names: the file names.
        where: the data set or the file that has them, for messages.

    Raises:
        UserError: a name is not UTF-8.
    """
    try:
        # `pa.string()` has 32-bit offsets, which allow no more than 2 GiB of names.
        return pa.array(names, pa.large_string())
    except UnicodeEncodeError as error:
        # `os` and `tarfile` return bytes that are not UTF-8 as surrogates; show them as \xNN.
        encoded = str(error.object).encode("utf-8", "surrogateescape")
        name = encoded.decode("utf-8", "backslashreplace")
        raise UserError(
            f"{where} has the file {name}, whose name is not UTF-8; rename it"
        ) from None


def class_notes(
    names: Sequence[str], train: NDArray[np.int64], test: NDArray[np.int64]
) -> tuple[str, ...]:
    """Return sentences about the classes that lack images in one of the two splits, or in both.

    Such a class is not refused, because a student without labels may be tested on it.

    Args:
        names: names of the classes.
        train: labels of the training images.
        test: labels of the test images.
    """
    notes = []
    for here, there, labels, others in (
        ("test", "train", test, train),
        ("train", "test", train, test),
    ):
        only_here = np.setdiff1d(labels, others)
        only_here = only_here[(only_here >= 0) & (only_here < len(names))]
        if len(only_here):
            listed = list_names([names[label] for label in only_here])
            notes.append(f"{listed} {_have(only_here)} images in {here} but none in {there}")
    nowhere = np.setdiff1d(np.arange(len(names)), np.union1d(train, test))
    if len(nowhere):
        listed = list_names([names[label] for label in nowhere])
        notes.append(f"{listed} {_have(nowhere)} no images")
    return tuple(notes)


def _have(items: Sequence[object] | NDArray[Any]) -> str:
    return "has" if len(items) == 1 else "have"


def list_names(names: Sequence[str], most: int = 3) -> str:
    """Return class names for a sentence: `class cat`, or `4 classes (cat, dog, fox, …)`."""
    if len(names) == 1:
        return f"class {names[0]}"
    more = ", …" if len(names) > most else ""
    return f"{len(names)} classes ({', '.join(names[:most])}{more})"


def digest(facts: Iterable[object]) -> str:
    """Return 16 hex digits of the SHA-256 over the facts, each as its `repr`.

    Keys of existing stores contain such digests. So the `repr` of a fact must not change, nor the
    name or the fields of a dataclass among the facts.
    """
    hasher = hashlib.sha256()
    for fact in facts:
        hasher.update(repr(fact).encode() + b"\n")
    return hasher.hexdigest()[:16]

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
TEST_NAMES = ("test", "val", "validation")
"""Names of the split used for test, in order of preference. Our val is always taken from train."""


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

    It can be pickled, without pixels and open files.
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

    def count(self, split: Split) -> int:
        """Return the number of items of a split, unreadable ones included."""

    def items(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Item]:
        """Return items `start` to `stop` of a split, at no cost for those before."""

    def groups(self, split: Split) -> NDArray[np.int64] | None:
        """Return the group of each item, [count], such as its camera; val takes whole groups.

        None means that items are independent.
        """


def name_column(names: Sequence[str], where: str) -> Any:
    """Return file names as one Arrow array: a million of them take tens of megabytes.

    Raises:
        UserError: a name is not UTF-8.
    """
    try:
        return pa.array(names, pa.large_string())
    except UnicodeEncodeError as error:
        encoded = str(error.object).encode("utf-8", "surrogateescape")
        name = encoded.decode("utf-8", "backslashreplace")
        raise UserError(
            f"{where} has the file {name}, whose name is not UTF-8; rename it"
        ) from None


def digest(facts: Iterable[object]) -> str:
    """Return 16 hex digits of the SHA-256 over the facts, each as its `repr`."""
    total = hashlib.sha256()
    for fact in facts:
        total.update(repr(fact).encode() + b"\n")
    return total.hexdigest()[:16]

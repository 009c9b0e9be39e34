"""What a source of images is: labelled items in a fixed order, in two splits, with a fingerprint."""

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
"""What sources call the split that we test on, in order of preference. Our own val is always cut from train."""


@dataclass(frozen=True)
class Item:
    """One labelled image, not decoded yet.

    Args:
        name: how messages call it, unique within a source.
        image: an encoded file's bytes, where they can be read, or pixels, uint8 [H, W, 3].
        label: class index, from 0.
    """

    name: str
    image: bytes | LazyBytes | NDArray[np.uint8]
    label: int


class Source(Protocol):
    """Where images come from. Items always come in the same order. It can be pickled, and then holds no pixels and no open file."""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, in label order."""

    @property
    def keys(self) -> tuple[str | None, ...]:
        """WordNet id of each class, such as n01440764, where the source knows it: the door for word senses."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change when the images or labels do."""

    def count(self, split: Split) -> int:
        """How many items a split has, broken ones included."""

    def items(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Item]:
        """Items `start` to `stop` of a split, without paying for those before."""

    def groups(self, split: Split) -> NDArray[np.int64] | None:
        """Which hand or camera each item came from, [count]; val takes whole groups. None: items are independent."""


def name_column(names: Sequence[str], where: str) -> Any:
    """File names end to end in one Arrow array: a million of them take tens of megabytes.

    Raises:
        UserError: a name is not UTF-8.
    """
    try:
        return pa.array(names, pa.large_string())
    except UnicodeEncodeError as error:
        name = (
            str(error.object).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        )
        raise UserError(
            f"{where} has the file {name}, whose name is not UTF-8; give it one that is"
        ) from None


def digest(facts: Iterable[object]) -> str:
    """16 hex digits of the SHA-256 over the facts, each as its `repr`."""
    total = hashlib.sha256()
    for fact in facts:
        total.update(repr(fact).encode() + b"\n")
    return total.hexdigest()[:16]

"""The embedded demo: real handwritten digits in coloured scenes, without a network.

The digits are scikit-learn's `load_digits`: 1797 scans of 8 x 8, the test half of UCI's optdigits. Its 13
writers copied the same list of digits onto forms, one after the other, so the labels show where each of 14 forms
begins. Who filled which is not recorded; since 14 forms have 13 writers, one of them filled two. Forms that follow each
other are therefore kept on one side, which makes it likely, not certain, that no writer is on two.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from beamclip.config import DataConfig
from beamclip.data.item import Item, Split, digest
from beamclip.data.names import resolve_classes
from beamclip.data.scenes import INKS, draw_scenes

DEMO_VERSION = 1
"""Goes up whenever the scenes change."""
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_FORM_STARTS = (0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667, 1797)
TEACHER_FORMS = (0, 1, 2, 3, 4)
FORMS: dict[Split, tuple[int, ...]] = {"train": (5, 6, 7, 8, 9, 10), "test": (11, 12, 13)}
SCENES_A_DIGIT: dict[Split, int] = {"train": 120, "test": 70}
"""For each of the ten digits of each form."""
_SEEDS: dict[Split, int] = {"train": 1, "test": 2}
_TEACHER_SEED = 3


@dataclass(frozen=True)
class TeacherScenes:
    """What the demo teacher learns from.

    images: uint8 [N, 32, 32, 3]. labels: the digit, int64 [N]. colours: index into `colour_names`, int64 [N].
    forms: whose writing, int64 [N].
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    colours: NDArray[np.int64]
    forms: NDArray[np.int64]
    colour_names: tuple[str, ...] = tuple(INKS)


def teacher_scenes(count: int, seed: int = 0, forms: tuple[int, ...] = TEACHER_FORMS) -> TeacherScenes:
    """Fresh scenes of handwriting that is in neither train, val nor test.

    Args:
        count: how many; split evenly over forms and digits.
        seed: other seeds give other scenes of the same writing.
    """
    each = -(-count // (len(forms) * len(DIGIT_NAMES)))
    rows = _rows(forms, each, _TEACHER_SEED + seed)[:count]
    digits, labels, form = _scans()
    scenes = draw_scenes(digits[rows], _TEACHER_SEED + seed)
    return TeacherScenes(scenes.images, labels[rows], scenes.inks, form[rows])


class DemoSource:
    """The demo's train and test splits. Nothing is read from disk but what comes with scikit-learn."""

    def __init__(self, config: DataConfig) -> None:
        self.names, self.keys = resolve_classes(config, DIGIT_NAMES, len(DIGIT_NAMES), exact=True)

    @cached_property
    def fingerprint(self) -> str:
        return digest(["demo", DEMO_VERSION, FORMS, SCENES_A_DIGIT, _SEEDS])

    def count(self, split: Split) -> int:
        return len(FORMS[split]) * len(DIGIT_NAMES) * SCENES_A_DIGIT[split]

    def items(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Item]:
        digits, labels, _ = _scans()
        rows = self._rows(split)[:stop]
        images = draw_scenes(digits[rows], _SEEDS[split], start).images
        named = enumerate(zip(images, labels[rows[start:]].tolist(), strict=True), start)
        return (Item(f"demo {split} {number}", image, label) for number, (image, label) in named)

    def groups(self, split: Split) -> NDArray[np.int64]:
        """The form that each scene's handwriting comes from."""
        return _scans()[2][self._rows(split)]

    def _rows(self, split: Split) -> NDArray[np.int64]:
        return _rows(FORMS[split], SCENES_A_DIGIT[split], _SEEDS[split])


def _rows(forms: tuple[int, ...], each: int, seed: int) -> NDArray[np.int64]:
    """Rows of the scans, so that each form and digit occurs `each` times, shuffled."""
    _, labels, form = _scans()
    scans = [np.flatnonzero((form == one) & (labels == digit)) for one in forms for digit in range(len(DIGIT_NAMES))]
    rows = np.concatenate([np.resize(few, each) for few in scans])
    return np.random.Generator(np.random.Philox(key=[seed, 2**32])).permutation(rows)


@cache
def _scans() -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Ink from 0 to 1 [1797, 8, 8], digits [1797] and forms [1797], in scikit-learn's order."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    form = np.repeat(np.arange(len(_FORM_STARTS) - 1), np.diff(_FORM_STARTS))
    return bunch.images.astype(np.float32) / np.float32(16), bunch.target.astype(np.int64), form.astype(np.int64)

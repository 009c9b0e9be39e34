"""Describe the result of a balance: a report, and a contact sheet of sets of near-duplicates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from beamclip.balance.neighbors import IntArray, SearchFacts, Vectors
from beamclip.balance.spanning_forest import farthest_pair

# Number of sets whose sizes are reported.
_LARGEST_SETS = 10


@dataclass(frozen=True)
class BalancedImages:
    """Images in sets of near-duplicates. A set may have a single image.

    Attributes:
        vectors: embeddings, unit length, fp32 [N, D].
        ids: sample ids, int64 [N].
        sets: number of each image's set, from 0, int64 [N].
        kept: row of the image that is kept of each set, int64 [sets].
    """

    vectors: Vectors
    ids: IntArray
    sets: IntArray
    kept: IntArray


class LargestSet(TypedDict):
    """The largest set. Sets are chains of near-duplicates, so its images may be far apart.

    Attributes:
        size: number of images.
        farthest: ids of the two images that are farthest apart.
        distance: cosine distance of these two.
        distance_is_sure: whether all pairs were compared. If not, `distance` is a lower bound.
    """

    size: int
    farthest: list[int]
    distance: float
    distance_is_sure: bool


class ClassBalance(TypedDict):
    """What was removed from one class.

    Attributes:
        name: name of the class.
        images: number of images before the balance.
        removed: number of images removed.
        share: removed / images, in [0, 1].
    """

    name: str
    images: int
    removed: int
    share: float


class BalanceSummary(TypedDict):
    """The part of a balance's report that is computed from the sets of images.

    Attributes:
        images: number of images before the balance.
        kept: number of images kept.
        removed: number of images removed.
        removed_share: removed / images, in [0, 1].
        sets: number of sets.
        sets_of_several: number of sets with more than one image.
        sizes: numbers of images of the ten largest sets, largest first.
        largest: the largest set.
        classes: what was removed from each class that has images, in the order of labels.
    """

    images: int
    kept: int
    removed: int
    removed_share: float
    sets: int
    sets_of_several: int
    sizes: list[int]
    largest: LargestSet
    classes: list[ClassBalance]


class BalanceReport(BalanceSummary):
    """The content of `report.json`. It is stored, so the keys must not change.

    Attributes:
        threshold: cosine distance below which images were joined.
        asked: the settings `balance.threshold` and `balance.remove`.
        search: how nearest neighbors were found.
    """

    threshold: float
    asked: dict[str, float | None]
    search: SearchFacts


def summarize_balance(
    images: BalancedImages, labels: IntArray, names: Sequence[str]
) -> BalanceSummary:
    """Count the sets and the removed images, in all and of each class.

    Args:
        images: the images and their sets.
        labels: classes of the images, int64 [N].
        names: class names in the order of labels.
    """
    sizes = np.bincount(images.sets)
    total = len(images.ids)
    kept = len(images.kept)
    return {
        "images": total,
        "kept": kept,
        "removed": total - kept,
        "removed_share": 1 - kept / total,
        "sets": len(sizes),
        "sets_of_several": int((sizes > 1).sum()),
        "sizes": np.sort(sizes)[::-1][:_LARGEST_SETS].tolist(),
        "largest": _describe_largest(images, sizes),
        "classes": _count_classes(labels, labels[images.kept], names),
    }


def _describe_largest(images: BalancedImages, sizes: IntArray) -> LargestSet:
    largest_set = sizes.argmax()
    rows = np.flatnonzero(images.sets == largest_set)
    pair = farthest_pair(images.vectors, rows)
    return {
        "size": len(rows),
        "farthest": [int(images.ids[pair.first]), int(images.ids[pair.second])],
        "distance": pair.distance,
        "distance_is_sure": pair.is_exact,
    }


def _count_classes(
    labels: IntArray, kept_labels: IntArray, names: Sequence[str]
) -> list[ClassBalance]:
    before = np.bincount(labels, minlength=len(names))
    after = np.bincount(kept_labels, minlength=len(names))
    classes: list[ClassBalance] = []
    for label, name in enumerate(names):
        if before[label]:
            classes.append(
                {
                    "name": name,
                    "images": int(before[label]),
                    "removed": int(before[label] - after[label]),
                    "share": float(1 - after[label] / before[label]),
                }
            )
    return classes


# --- The contact sheet. Sizes are in pixels. ---

_CELL = 72
_GAP = 4
_LABEL = 110
_IMAGES_PER_SET = 12
_LARGEST_SETS_SHOWN = 12
_RANDOM_SETS_SHOWN = 12
_FRAME_COLOR = (220, 30, 40)
_PAPER_COLOR = (255, 255, 255)
_TEXT_COLOR = (20, 20, 20)

ReadImages = Callable[[IntArray], NDArray[np.uint8]]
"""Reads sample ids [B] -> pixels [B, S, S, 3]."""


def contact_sheet(images: BalancedImages, read: ReadImages) -> Image.Image:
    """Draw the largest sets, and a random choice of the other sets with more than one image.

    Each set is one line, which starts with the image that was kept, in a red frame. The other
    images follow from the nearest to the farthest. At most twelve images of a set are shown.

    Args:
        images: the images and their sets.
        read: function that reads the pixels.
    """
    shown_sets = _choose_sets(np.bincount(images.sets))
    width = _LABEL + _IMAGES_PER_SET * (_CELL + _GAP) + _GAP
    height = max(1, len(shown_sets)) * (_CELL + _GAP) + _GAP
    sheet = Image.new("RGB", (width, height), _PAPER_COLOR)
    if not shown_sets:
        ImageDraw.Draw(sheet).text((_GAP, _GAP), "no images were merged", _TEXT_COLOR)
    for line, set_number in enumerate(shown_sets):
        rows = np.flatnonzero(images.sets == set_number)
        shown_rows = _choose_images(images.vectors, rows, int(images.kept[set_number]))
        kind = "largest sets" if line < _LARGEST_SETS_SHOWN else "at random"
        label = f"{len(rows):,} images\n{kind}"
        top = _GAP + line * (_CELL + _GAP)
        pixels = read(images.ids[shown_rows])
        _draw_set(sheet, top, pixels, label)
    return sheet


def _choose_sets(sizes: IntArray) -> list[int]:
    """Return the numbers of the sets to show, all with more than one image.

    They are the largest sets in descending order, then random other sets.
    """
    sets_of_several = int((sizes > 1).sum())
    descending = np.argsort(-sizes, kind="stable")[:sets_of_several]
    largest = descending[:_LARGEST_SETS_SHOWN]
    others = np.random.default_rng(0).permutation(descending[_LARGEST_SETS_SHOWN:])
    return [*largest.tolist(), *others[:_RANDOM_SETS_SHOWN].tolist()]


def _choose_images(vectors: Vectors, rows: IntArray, kept: int) -> IntArray:
    """Return the rows of a set to show: the kept image, then others from near to far."""
    others = rows[rows != kept]
    cosines = vectors[others] @ vectors[kept]
    others = others[np.argsort(-cosines, kind="stable")]
    # Evenly spaced ones, from the nearest to the farthest.
    count = min(_IMAGES_PER_SET - 1, len(others))
    positions = np.unique(np.linspace(0, len(others) - 1, count).astype(np.int64))
    return np.concatenate([[kept], others[positions]])


def _draw_set(sheet: Image.Image, top: int, pixels: NDArray[np.uint8], label: str) -> None:
    """Draw one line of the sheet, with a frame around the first image.

    Args:
        sheet: the sheet to draw on.
        top: upper edge of the images, in pixels.
        pixels: the images, [B, S, S, 3].
        label: text in front of the images.
    """
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, top + _CELL // 3), label, _TEXT_COLOR)
    for column, image in enumerate(pixels):
        left = _LABEL + column * (_CELL + _GAP)
        cell = Image.fromarray(image).resize((_CELL, _CELL), Image.Resampling.BILINEAR)
        sheet.paste(cell, (left, top))
    frame = (_LABEL - 2, top - 2, _LABEL + _CELL + 1, top + _CELL + 1)
    draw.rectangle(frame, outline=_FRAME_COLOR, width=3)

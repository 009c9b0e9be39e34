"""Describe the result of a balance: a report and a contact sheet of merged images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from beamclip.balance.neighbors import IntArray, SearchFacts, Vectors
from beamclip.balance.spanning_forest import farthest_pair

# Sizes of this many sets are reported.
_LARGEST_SETS = 10


@dataclass(frozen=True)
class BalancedImages:
    """Images in sets of near-duplicates.

    Attributes:
        vectors: [N, D] embeddings, unit length.
        ids: [N] sample ids.
        sets: [N] number of each image's set, from 0.
        kept: [sets] row of the image kept of each set.
    """

    vectors: Vectors
    ids: IntArray
    sets: IntArray
    kept: IntArray


class LargestSet(TypedDict):
    """The largest set, whose images may be far apart since sets are chains of near-duplicates.

    Attributes:
        size: number of images.
        farthest: ids of the two images that are farthest apart.
        distance: their cosine distance.
        distance_is_sure: whether all pairs were compared; otherwise `distance` is a lower bound.
    """

    size: int
    farthest: list[int]
    distance: float
    distance_is_sure: bool


class ClassBalance(TypedDict):
    """The images of one class that were removed.

    Attributes:
        name: of the class.
        images: number before the balance.
        removed: number removed.
        share: of the class's images that were removed, in [0, 1].
    """

    name: str
    images: int
    removed: int
    share: float


class BalanceSummary(TypedDict):
    """The part of a report that follows from the images' sets.

    Attributes:
        images: number of images before the balance.
        kept: number of images kept.
        removed: number of images removed.
        removed_share: of all images, in [0, 1].
        sets: number of sets.
        sets_of_several: number of sets with more than one image.
        sizes: number of images of the ten largest sets, largest first.
        largest: the largest set.
        classes: every class that has images.
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
    """The content of `report.json`; the keys must not change.

    Attributes:
        threshold: cosine distance below which images were joined.
        asked: the settings `threshold` and `remove`.
        search: how near neighbors were found.
    """

    threshold: float
    asked: dict[str, float | None]
    search: SearchFacts


def summarize_balance(
    images: BalancedImages, labels: IntArray, names: Sequence[str]
) -> BalanceSummary:
    """Count the sets and what was removed, in all and of each class.

    Args:
        images: the images and their sets.
        labels: [N] classes of the images.
        names: class names.
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
    rows = np.flatnonzero(images.sets == sizes.argmax())
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
    """Draw the largest sets, and random ones among the other sets with several images.

    Each set is a row that begins with the image kept, in a frame. Of more than twelve images, some
    from the nearest to the kept one to the farthest are shown.

    Args:
        images: the images and their sets.
        read: reads pixels.
    """
    shown_sets = _choose_sets(np.bincount(images.sets))
    width = _LABEL + _IMAGES_PER_SET * (_CELL + _GAP) + _GAP
    height = max(1, len(shown_sets)) * (_CELL + _GAP) + _GAP
    sheet = Image.new("RGB", (width, height), _PAPER_COLOR)
    if not shown_sets:
        ImageDraw.Draw(sheet).text((_GAP, _GAP), "no images were merged", _TEXT_COLOR)
    for line, number in enumerate(shown_sets):
        rows = np.flatnonzero(images.sets == number)
        shown_rows = _choose_images(images.vectors, rows, int(images.kept[number]))
        kind = "largest sets" if line < _LARGEST_SETS_SHOWN else "at random"
        label = f"{len(rows):,} images\n{kind}"
        _draw_set(sheet, _GAP + line * (_CELL + _GAP), read(images.ids[shown_rows]), label)
    return sheet


def _choose_sets(sizes: IntArray) -> list[int]:
    """Return the numbers of the largest sets, and of random other sets, with several images."""
    descending = np.argsort(-sizes, kind="stable")[: int((sizes > 1).sum())]
    largest = descending[:_LARGEST_SETS_SHOWN]
    others = np.random.default_rng(0).permutation(descending[_LARGEST_SETS_SHOWN:])
    return [*largest.tolist(), *others[:_RANDOM_SETS_SHOWN].tolist()]


def _choose_images(vectors: Vectors, rows: IntArray, kept: int) -> IntArray:
    """Return the rows of a set to show: the kept one, then others from near to far."""
    others = rows[rows != kept]
    others = others[np.argsort(-(vectors[others] @ vectors[kept]), kind="stable")]
    count = min(_IMAGES_PER_SET - 1, len(others))
    positions = np.unique(np.linspace(0, len(others) - 1, count).astype(np.int64))
    return np.concatenate([[kept], others[positions]])


def _draw_set(sheet: Image.Image, top: int, pixels: NDArray[np.uint8], label: str) -> None:
    """Draw one row of the sheet, with a frame around the first image."""
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, top + _CELL // 3), label, _TEXT_COLOR)
    for column, image in enumerate(pixels):
        left = _LABEL + column * (_CELL + _GAP)
        cell = Image.fromarray(image).resize((_CELL, _CELL), Image.Resampling.BILINEAR)
        sheet.paste(cell, (left, top))
    frame = (_LABEL - 2, top - 2, _LABEL + _CELL + 1, top + _CELL + 1)
    draw.rectangle(frame, outline=_FRAME_COLOR, width=3)

"""A contact sheet of what was merged: a row a set, the image kept first, in a frame."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from beamclip.balance.neighbors import Rows, Vectors
from beamclip.balance.spanning_forest import farthest_pair

# What a balance did, in numbers.


_LARGEST = 10


def report_of(
    vectors: Vectors, ids: Rows, sets: Rows, kept: Rows, labels: Rows, names: Sequence[str]
) -> dict[str, Any]:
    """Sets, the largest chain, and what was removed, in all and of each class. JSON values only.

    Args:
        vectors: [N, D], unit length.
        ids: [N] sample ids.
        sets: [N] the set of each.
        kept: rows that are kept.
        labels: [N] classes.
        names: of the classes.
    """
    sizes = np.bincount(sets)
    return {
        "images": len(ids),
        "kept": len(kept),
        "removed": len(ids) - len(kept),
        "removed_share": 1 - len(kept) / len(ids),
        "sets": len(sizes),
        "sets_of_several": int((sizes > 1).sum()),
        "sizes": np.sort(sizes)[::-1][:_LARGEST].tolist(),
        "largest": _largest(vectors, ids, sets, sizes),
        "classes": _classes(labels, labels[kept], names),
    }


def _largest(vectors: Vectors, ids: Rows, sets: Rows, sizes: Rows) -> dict[str, Any]:
    rows = np.flatnonzero(sets == sizes.argmax())
    a, b, distance, sure = farthest_pair(vectors, rows)
    return {
        "size": len(rows),
        "farthest": [int(ids[a]), int(ids[b])],
        "distance": distance,
        "distance_is_sure": sure,
    }


def _classes(labels: Rows, kept: Rows, names: Sequence[str]) -> list[dict[str, Any]]:
    """Of each class that has images: how many, and the share removed."""
    before, after = (np.bincount(some, minlength=len(names)) for some in (labels, kept))
    return [
        {
            "name": name,
            "images": int(before[label]),
            "removed": int(before[label] - after[label]),
            "share": float(1 - after[label] / before[label]),
        }
        for label, name in enumerate(names)
        if before[label]
    ]


_CELL, _GAP, _LABEL = 72, 4, 110
_SHOWN = 12  # images of a set
_ROWS = 12  # sets of each kind
_FRAME, _PAPER, _INK = (220, 30, 40), (255, 255, 255), (20, 20, 20)

Read = Callable[[Rows], NDArray[np.uint8]]
"""Sample ids [B] -> pixels [B, S, S, 3]."""


def contact_sheet(vectors: Vectors, ids: Rows, sets: Rows, kept: Rows, read: Read) -> Image.Image:
    """The largest sets, then some drawn at random among the others that have several images.

    Of a set with more than twelve, the kept image and others from the nearest to it to the farthest.

    Args:
        vectors: [N, D], unit length.
        ids: [N] sample ids.
        sets: [N] the set of each.
        kept: row of the image kept of each set, [sets].
    """
    chosen = _chosen(np.bincount(sets))
    sheet = Image.new(
        "RGB",
        (_LABEL + _SHOWN * (_CELL + _GAP) + _GAP, max(1, len(chosen)) * (_CELL + _GAP) + _GAP),
        _PAPER,
    )
    if not chosen:
        ImageDraw.Draw(sheet).text((_GAP, _GAP), "no images were merged", _INK)
    for line, number in enumerate(chosen):
        rows = np.flatnonzero(sets == number)
        _draw_row(
            sheet,
            _GAP + line * (_CELL + _GAP),
            read(ids[_shown(vectors, rows, int(kept[number]))]),
            len(rows),
            line < _ROWS,
        )
    return sheet


def _chosen(sizes: Rows) -> list[int]:
    order = np.argsort(-sizes, kind="stable")[: int((sizes > 1).sum())]
    rest = np.random.default_rng(0).permutation(order[_ROWS:])[:_ROWS]
    return [*order[:_ROWS].tolist(), *rest.tolist()]


def _shown(vectors: Vectors, rows: Rows, kept: int) -> Rows:
    others = rows[rows != kept]
    others = others[np.argsort(-(vectors[others] @ vectors[kept]), kind="stable")]
    places = np.unique(
        np.linspace(0, len(others) - 1, min(_SHOWN - 1, len(others))).astype(np.int64)
    )
    return np.concatenate([[kept], others[places]])


def _draw_row(
    sheet: Image.Image, top: int, pixels: NDArray[np.uint8], size: int, largest: bool
) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.text(
        (_GAP, top + _CELL // 3),
        f"{size:,} images\n{'largest sets' if largest else 'at random'}",
        _INK,
    )
    for place, image in enumerate(pixels):
        left = _LABEL + place * (_CELL + _GAP)
        sheet.paste(
            Image.fromarray(image).resize((_CELL, _CELL), Image.Resampling.BILINEAR), (left, top)
        )
        if place == 0:
            draw.rectangle(
                (left - 2, top - 2, left + _CELL + 1, top + _CELL + 1), outline=_FRAME, width=3
            )

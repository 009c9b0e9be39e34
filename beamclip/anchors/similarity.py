"""How alike anchors are: what students can't tell apart, because their teacher says the same of both."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

NEAR = 0.95
"""Cosine from which two anchors are called near-duplicates."""
_SAME = 1 - 1e-5
_ROWS = 1024


@dataclass(frozen=True)
class Likeness:
    """Pairs of anchors by their cosine.

    Attributes:
        duplicates: pairs that are one and the same, such as ImageNet's two "missile" under their bare name.
        near: pairs at or above `threshold`, duplicates included.
        nearest: (row, row, cosine) of the most alike, first the nearest.
    """

    duplicates: int
    near: int
    threshold: float
    nearest: tuple[tuple[int, int, float], ...]


def likeness(anchors: Tensor, threshold: float = NEAR, most: int = 50) -> Likeness:
    """Look at all pairs once, some rows at a time: 20,000 anchors are 400 million pairs.

    Args:
        anchors: [K, D], unit length.
        most: how many of the nearest pairs are named.
    """
    duplicates = near = 0
    found: list[tuple[float, int, int]] = []
    for start, cosines in _blocks(anchors):
        duplicates += int((cosines >= _SAME).sum())
        near += int((cosines >= min(threshold, _SAME)).sum())
        values, places = cosines.flatten().topk(min(most, cosines.numel()))
        rows, columns = places // cosines.shape[1] + start, places % cosines.shape[1]
        block = zip(values.tolist(), rows.tolist(), columns.tolist(), strict=True)
        found = sorted([*found, *(one for one in block if one[1] < one[2])], reverse=True)[:most]
    return Likeness(
        duplicates, near, threshold, tuple((i, j, round(cosine, 5)) for cosine, i, j in found)
    )


def _blocks(anchors: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Cosines of some rows with all, those of a pair once: the rest is below any cosine."""
    columns = torch.arange(len(anchors))
    for start in range(0, len(anchors), _ROWS):
        rows = torch.arange(start, min(start + _ROWS, len(anchors)))
        yield start, (anchors[rows] @ anchors.T).masked_fill(columns <= rows[:, None], -2.0)

"""Measure how similar anchors are to each other.

Students can't tell two classes apart if the teacher's anchors for them are (nearly) the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

NEAR_DUPLICATE = 0.95
"""Cosine from which two anchors count as near-duplicates by default."""
# Cosine from which two anchors count as equal: fp32 rounding keeps that of equal ones from being
# exactly 1.
_DUPLICATE = 1 - 1e-5
# Rows that are compared with all anchors at once. The cosines of 20,000 anchors in one matrix would
# take 1.6 GB; a block takes 82 MB.
_BLOCK_ROWS = 1024


@dataclass(frozen=True)
class AnchorSimilarity:
    """Pairs of anchors by their cosine. The fields are stored in the anchor set's manifest.

    Attributes:
        duplicates: pairs with the same anchor, such as ImageNet's two classes called "missile" when
            a prompt set uses names only.
        near: pairs with a cosine of at least `threshold`, duplicates included.
        threshold: the cosine from which pairs count as near.
        nearest: (row, row, cosine) of the most similar pairs, most similar first.
    """

    duplicates: int
    near: int
    threshold: float
    nearest: tuple[tuple[int, int, float], ...]


def measure_similarity(
    anchors: Tensor, threshold: float = NEAR_DUPLICATE, max_pairs: int = 50
) -> AnchorSimilarity:
    """Count near-duplicate pairs of anchors and list the nearest ones.

    All pairs are compared once, in blocks that fit into memory.

    Args:
        anchors: [K, D], unit length.
        threshold: cosine from which a pair counts as near; duplicates always count.
        max_pairs: length of the list of nearest pairs.
    """
    duplicates = 0
    near = 0
    nearest: list[tuple[float, int, int]] = []
    for first_row, cosines in _cosine_blocks(anchors):
        duplicates += int((cosines >= _DUPLICATE).sum())
        near += int((cosines >= min(threshold, _DUPLICATE)).sum())
        top_cosines, flat_positions = cosines.flatten().topk(min(max_pairs, cosines.numel()))
        rows = flat_positions // cosines.shape[1] + first_row
        columns = flat_positions % cosines.shape[1]
        block = zip(top_cosines.tolist(), rows.tolist(), columns.tolist(), strict=True)
        # The masked cells of small blocks are among the top ones; they have column <= row.
        nearest += [pair for pair in block if pair[1] < pair[2]]
        nearest = sorted(nearest, reverse=True)[:max_pairs]
    pairs = tuple((row, column, round(cosine, 5)) for cosine, row, column in nearest)
    return AnchorSimilarity(duplicates, near, threshold, pairs)


def _cosine_blocks(anchors: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row of each block of rows and the block's cosines with all anchors.

    Cells on and below the diagonal are -2, below any cosine, so that every pair is seen once.
    """
    columns = torch.arange(len(anchors))
    for first_row in range(0, len(anchors), _BLOCK_ROWS):
        rows = torch.arange(first_row, min(first_row + _BLOCK_ROWS, len(anchors)))
        cosines = anchors[rows] @ anchors.T
        yield first_row, cosines.masked_fill(columns <= rows[:, None], -2.0)

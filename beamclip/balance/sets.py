"""Cutting a forest: a threshold for a share, the sets below it, and the one image of each that is kept."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from beamclip.balance.forest import Forest, pair_distances
from beamclip.balance.search import Rows, Vectors

_CHUNK = 16_384
_ALL_PAIRS = 20_000  # images of a set up to which its two farthest are found by comparing all
_DIGITS = 6


def threshold_for(forest: Forest, share: float) -> float:
    """The threshold below which the share of images removed is nearest to `share`; where two are as near, that removing fewer.

    It lies in the middle between the two distances it has to lie between. Images that are equally far apart go together, so not
    every share can be met. 0.0 joins nothing.
    """
    values, counts = np.unique(forest.distances, return_counts=True)
    removed = np.concatenate([[0], np.cumsum(counts)])
    best = int(np.abs(removed - share * forest.images).argmin())
    if best == 0:
        return 0.0
    above = values[best] if best < len(values) else values[-1] + 2 * 10**-_DIGITS
    return float((values[best - 1] + above) / 2)


def sets_at(forest: Forest, threshold: float) -> Rows:
    """The number of each image's set, [N], from 0: images are together where a chain of steps below the threshold joins them."""
    edges = forest.edges[forest.distances < threshold]
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(forest.images, forest.images))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def nearest_to_centre(vectors: Vectors, sets: Rows) -> Rows:
    """The row of each set that is nearest to the mean of the set's vectors, [sets]; of equally near ones, the first.

    Args:
        vectors: [N, D], unit length.
        sets: [N].
    """
    order = np.argsort(sets, kind="stable")
    starts = np.flatnonzero(np.diff(sets[order], prepend=-1))
    kept = [_nearest(vectors, order[low:high], starts[first:last] - low) for first, last, low, high in _chunks(starts, len(sets))]
    return np.concatenate(kept)


def _chunks(starts: Rows, total: int) -> Iterator[tuple[int, int, int, int]]:
    """Whole sets together, as many as a chunk holds: first and last set, first and last row."""
    ends = np.append(starts[1:], total)
    first = 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + _CHUNK, side="right")))
        yield first, last, int(starts[first]), int(ends[last - 1])
        first = last


def _nearest(vectors: Vectors, rows: Rows, starts: Rows) -> Rows:
    own = vectors[rows]
    sums = np.add.reduceat(own, starts, axis=0, dtype=np.float64)
    centres = (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    of_row = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(rows))))
    # The two images of a pair are equally near; without rounding the last bit would choose.
    cosines = np.round(np.einsum("nd,nd->n", own, centres[of_row]), _DIGITS)
    best = np.flatnonzero(cosines == np.maximum.reduceat(cosines, starts)[of_row])
    return rows[best[np.unique(of_row[best], return_index=True)[1]]]


def farthest_pair(vectors: Vectors, rows: Rows) -> tuple[int, int, float, bool]:
    """The two images of a set that are least alike.

    Returns:
        Both rows, their cosine distance, and whether it is sure that no other two are farther apart: in a set of more than 20,000
        only the farthest from the farthest from the first is looked for.
    """
    own = vectors[rows]
    if len(rows) > _ALL_PAIRS:
        a = int((own @ own[0]).argmin())
        b = int((own @ own[a]).argmin())
    else:
        a, b = _least_alike(own)
    pair = np.array([[rows[a], rows[b]]])
    return int(rows[a]), int(rows[b]), float(pair_distances(vectors, pair)[0]), len(rows) <= _ALL_PAIRS


def _least_alike(own: Vectors) -> tuple[int, int]:
    lowest, pair = np.inf, (0, 0)
    for start in range(0, len(own), 1024):
        cosines: NDArray[np.float32] = own[start : start + 1024] @ own.T
        row, column = divmod(int(cosines.argmin()), len(own))
        if cosines[row, column] < lowest:
            lowest, pair = float(cosines[row, column]), (start + row, column)
    return pair

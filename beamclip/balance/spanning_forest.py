"""Cutting a forest: a threshold for a share, the sets below it, and the one image of each that is kept."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from beamclip.balance.neighbors import (
    Neighbours,
    Rows,
    Vectors,
    indexed_neighbours,
    nearest_outside,
)
from beamclip.stores import Progress, silent

# The minimum spanning forest of all images under cosine distance: what answers every threshold at once.
#
# Joining all pairs below a threshold gives the same sets as joining only those edges of a minimum spanning forest that are below it
# (for any two images, the path between them in the forest has the least possible longest edge). So N - 1 edges, sorted, say for
# every threshold which images belong together, and each edge below it is one image less: removed = N - number of sets.


_KEPT = 16  # neighbours an image remembers; more cost memory, fewer cost searching again
_DIGITS = 7  # embeddings are kept as fp16: what lies beyond says nothing, and would differ between machines
_CHUNK = 65_536


@dataclass(frozen=True)
class Forest:
    """Edges in ascending order of distance.

    Attributes:
        images: N.
        edges: [E, 2] rows, E at most N - 1; fewer where an index left images apart.
        distances: [E] cosine distances, rounded to 7 digits.
        facts: how near neighbours were found. JSON values only.
    """

    images: int
    edges: Rows
    distances: NDArray[np.float64]
    facts: dict[str, Any]


def exact_forest(vectors: Vectors, progress: Progress = silent) -> Forest:
    """By Borůvka's algorithm: every tree takes the shortest edge that leaves it, until one tree is left.

    Each image remembers its nearest neighbours. Once all of them are in its own tree, the last one's distance still bounds what the
    image could offer; only where that bound could beat what its tree has already is the image compared with all others again. The
    largest tree waits to be found by the others, which saves comparing most images in the last rounds.

    Args:
        vectors: [N, D], unit length.
    """
    images, searched = len(vectors), 0
    trees, picked, lengths = np.arange(images), np.empty((0, 2), np.int64), np.empty(0, np.float32)
    near, far = nearest_outside(vectors, trees, trees, _KEPT, progress)
    searched += images
    while (sizes := np.bincount(trees)).size > 1:
        waiting = trees == sizes.argmax()
        stale = _stale(near, far, trees) & ~waiting
        if stale.any():
            asked = np.flatnonzero(stale)
            near[asked], far[asked] = nearest_outside(vectors, asked, trees, _KEPT)
            searched += len(asked)
        edges, new = _shortest(near, far, trees, waiting)
        picked, lengths = np.concatenate([picked, edges]), np.concatenate([lengths, new])
        trees = connected_components(
            coo_array((np.ones(len(picked)), picked.T), shape=(images, images)), directed=False
        )[1]
        trees = trees.astype(np.int64)
    return _measured(
        vectors,
        _spanning(picked, lengths, images),
        {"method": "exact", "passes": round(searched / images, 2)},
    )


def indexed_forest(vectors: Vectors, count: int, progress: Progress = silent) -> Forest:
    """Of the graph of nearest neighbours only: sets that belong together may stay apart, never the other way round.

    Args:
        count: neighbours of each image.

    Raises:
        UserError: faiss is not installed.
    """
    found: Neighbours = indexed_neighbours(vectors, min(count, len(vectors) - 1), progress)
    there = np.isfinite(found.distances)
    pairs = np.stack([np.nonzero(there)[0], found.rows[there]], axis=1)
    return _measured(vectors, _spanning(pairs, found.distances[there], len(vectors)), found.facts)


def _offers(near: Rows, far: Vectors, trees: Rows) -> tuple[NDArray[np.bool_], Rows, Vectors]:
    """Of each image: whether it knows a neighbour in another tree, which place in its list is the nearest such, and its distance."""
    outside = (trees[near] != trees[:, None]) & np.isfinite(far)
    first = outside.argmax(axis=1)
    knows = outside.any(axis=1)
    return knows, first, np.where(knows, far[np.arange(len(far)), first], np.inf).astype(np.float32)


def _stale(near: Rows, far: Vectors, trees: Rows) -> NDArray[np.bool_]:
    """Images that know no neighbour outside their tree, but may have one nearer than any that their tree knows."""
    knows, _, offers = _offers(near, far, trees)
    best = np.full(trees.max() + 1, np.inf, np.float32)
    np.minimum.at(best, trees, offers)
    return np.asarray(~knows & (far[:, -1] < best[trees]))


def _shortest(
    near: Rows, far: Vectors, trees: Rows, waiting: NDArray[np.bool_]
) -> tuple[Rows, Vectors]:
    """The shortest edge out of every tree that does not wait: [T, 2] and [T]."""
    _, first, offers = _offers(near, far, trees)
    order = np.lexsort((offers, trees))
    order = order[~waiting[order]]
    _, places = np.unique(trees[order], return_index=True)
    rows = order[places]
    return np.stack([rows, near[rows, first[rows]]], axis=1), offers[rows]


def _spanning(pairs: Rows, lengths: Vectors, images: int) -> Rows:
    """The forest's edges among these, [E, 2]. SciPy drops edges of length 0, so it gets their ranks instead, which also settles ties."""
    pairs = np.sort(pairs, axis=1)
    _, once = np.unique(pairs[:, 0] * images + pairs[:, 1], return_index=True)
    once = once[np.argsort(lengths[once], kind="stable")]
    ranks = np.arange(1, len(once) + 1, dtype=np.float64)
    tree = minimum_spanning_tree(coo_array((ranks, pairs[once].T), shape=(images, images)).tocsr())
    return np.asarray(pairs[once[np.sort(tree.data).astype(np.int64) - 1]])


def _measured(vectors: Vectors, edges: Rows, facts: dict[str, Any]) -> Forest:
    distances = pair_distances(vectors, edges)
    order = np.lexsort((edges[:, 1], edges[:, 0], distances))
    return Forest(len(vectors), edges[order], distances[order], facts)


def pair_distances(vectors: Vectors, pairs: Rows) -> NDArray[np.float64]:
    """Cosine distances of pairs of rows, [E, 2] -> [E], in fp64, rounded to 7 digits."""
    out = np.empty(len(pairs))
    for start in range(0, len(pairs), _CHUNK):
        a, b = (vectors[pairs[start : start + _CHUNK, side]].astype(np.float64) for side in (0, 1))
        lengths = np.sqrt(np.einsum("nd,nd->n", a, a) * np.einsum("nd,nd->n", b, b))
        out[start : start + _CHUNK] = 1 - np.einsum("nd,nd->n", a, b) / lengths
    return np.asarray(np.maximum(np.round(out, _DIGITS), 0.0))


_CHUNK_sets = 16_384
_ALL_PAIRS = 20_000  # images of a set up to which its two farthest are found by comparing all
_DIGITS_sets = 6


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
    above = values[best] if best < len(values) else values[-1] + 2 * 10**-_DIGITS_sets
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
    kept = [
        _nearest(vectors, order[low:high], starts[first:last] - low)
        for first, last, low, high in _chunks(starts, len(sets))
    ]
    return np.concatenate(kept)


def _chunks(starts: Rows, total: int) -> Iterator[tuple[int, int, int, int]]:
    """Whole sets together, as many as a chunk holds: first and last set, first and last row."""
    ends = np.append(starts[1:], total)
    first = 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + _CHUNK_sets, side="right")))
        yield first, last, int(starts[first]), int(ends[last - 1])
        first = last


def _nearest(vectors: Vectors, rows: Rows, starts: Rows) -> Rows:
    own = vectors[rows]
    sums = np.add.reduceat(own, starts, axis=0, dtype=np.float64)
    centres = (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).astype(
        np.float32
    )
    of_row = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(rows))))
    # The two images of a pair are equally near; without rounding the last bit would choose.
    cosines = np.round(np.einsum("nd,nd->n", own, centres[of_row]), _DIGITS_sets)
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
    return (
        int(rows[a]),
        int(rows[b]),
        float(pair_distances(vectors, pair)[0]),
        len(rows) <= _ALL_PAIRS,
    )


def _least_alike(own: Vectors) -> tuple[int, int]:
    lowest, pair = np.inf, (0, 0)
    for start in range(0, len(own), 1024):
        cosines: NDArray[np.float32] = own[start : start + 1024] @ own.T
        row, column = divmod(int(cosines.argmin()), len(own))
        if cosines[row, column] < lowest:
            lowest, pair = float(cosines[row, column]), (start + row, column)
    return pair

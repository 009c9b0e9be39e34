"""Group images into sets of near-duplicates with the minimum spanning forest of their distances.

Joining all pairs below a threshold gives the same sets as joining only those edges of a minimum
spanning forest that are below it: for any two images, the path between them in the forest has the
least possible longest edge. So at most N - 1 edges, sorted, answer every threshold at once. Each
edge below it means one image less: removed = N - number of sets.

`exact_forest` and `indexed_forest` build the forest; `threshold_for_share` and `cut_forest` cut it;
`nearest_to_center` chooses the image to keep of each set.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from beamclip.balance.neighbors import (
    IntArray,
    SearchFacts,
    Vectors,
    approximate_neighbors,
    nearest_in_other_groups,
)
from beamclip.stores import Progress, silent

# Neighbors an image remembers. More cost memory, fewer cost repeated searches.
_REMEMBERED_NEIGHBORS = 16
# Embeddings are stored as fp16: further digits of distances mean nothing and would differ between
# machines.
_DISTANCE_DIGITS = 7
_PAIR_CHUNK = 65_536
# Rows whose sets' centers are computed at once.
_CENTER_CHUNK = 16_384
_CUT_DIGITS = 6
# Size of a set up to which all its pairs are compared to find the two farthest images.
_MAX_ALL_PAIRS = 20_000

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Forest:
    """A minimum spanning forest, with edges in ascending order of distance.

    Attributes:
        images: number of images N.
        edges: [E, 2] rows. E is N - 1 at most, and less if an index found no path between some
            images.
        distances: [E] cosine distances, rounded to 7 digits.
        facts: how near neighbors were found.
    """

    images: int
    edges: IntArray
    distances: Doubles
    facts: SearchFacts


# --- Building the forest ---


def exact_forest(vectors: Vectors, progress: Progress = silent) -> Forest:
    """Build the forest with Borůvka's algorithm.

    Every tree takes the shortest edge that leaves it, until one tree is left. Each image remembers
    its nearest neighbors. When all of them are in its own tree, the distance of the last one still
    bounds what the image could offer. Only if that bound could beat what its tree already has is
    the image compared with all others again. The largest tree waits to be found by the others,
    which saves comparing most images in the last rounds.

    Args:
        vectors: [N, D], unit length.
        progress: called during the first comparison of all pairs.
    """
    images = len(vectors)
    trees = np.arange(images)
    edges = np.empty((0, 2), np.int64)
    lengths = np.empty(0, np.float32)
    neighbors, distances = nearest_in_other_groups(
        vectors, trees, trees, _REMEMBERED_NEIGHBORS, progress
    )
    compared_rows = images
    tree_sizes = np.bincount(trees)
    while len(tree_sizes) > 1:
        is_waiting = trees == tree_sizes.argmax()
        is_stale = _is_stale(neighbors, distances, trees) & ~is_waiting
        if is_stale.any():
            rows = np.flatnonzero(is_stale)
            neighbors[rows], distances[rows] = nearest_in_other_groups(
                vectors, rows, trees, _REMEMBERED_NEIGHBORS
            )
            compared_rows += len(rows)
        new_edges, new_lengths = _shortest_edges(neighbors, distances, trees, is_waiting)
        edges = np.concatenate([edges, new_edges])
        lengths = np.concatenate([lengths, new_lengths])
        trees = _components(edges, images)
        tree_sizes = np.bincount(trees)
    facts: SearchFacts = {"method": "exact", "passes": round(compared_rows / images, 2)}
    return _sorted_forest(vectors, _spanning_edges(edges, lengths, images), facts)


def indexed_forest(vectors: Vectors, count: int, progress: Progress = silent) -> Forest:
    """Build the forest of the graph of approximate nearest neighbors.

    Sets that belong together may stay apart, never the other way round.

    Args:
        vectors: [N, D], unit length.
        count: number of neighbors of each image.
        progress: called while neighbors are found.

    Raises:
        UserError: faiss is not installed.
    """
    found = approximate_neighbors(vectors, min(count, len(vectors) - 1), progress)
    is_found = np.isfinite(found.distances)
    pairs = np.stack([np.nonzero(is_found)[0], found.rows[is_found]], axis=1)
    edges = _spanning_edges(pairs, found.distances[is_found], len(vectors))
    return _sorted_forest(vectors, edges, found.facts)


class _Offers(NamedTuple):
    """The nearest remembered neighbor of each image that is in another tree.

    Attributes:
        exists: [N] whether the image remembers one.
        position: [N] its position in the image's list.
        distance: [N] its distance, inf if there is none.
    """

    exists: Bools
    position: IntArray
    distance: Vectors


def _offers(neighbors: IntArray, distances: Vectors, trees: IntArray) -> _Offers:
    is_outside = (trees[neighbors] != trees[:, None]) & np.isfinite(distances)
    position = is_outside.argmax(axis=1)
    exists = is_outside.any(axis=1)
    nearest = np.where(exists, distances[np.arange(len(distances)), position], np.inf)
    return _Offers(exists, position, nearest.astype(np.float32))


def _is_stale(neighbors: IntArray, distances: Vectors, trees: IntArray) -> Bools:
    """Return the images, [N], that must be compared with all others again.

    They remember no neighbor outside their tree, but may have one nearer than any their tree knows.
    """
    offers = _offers(neighbors, distances, trees)
    best_of_tree = np.full(trees.max() + 1, np.inf, np.float32)
    np.minimum.at(best_of_tree, trees, offers.distance)
    return np.asarray(~offers.exists & (distances[:, -1] < best_of_tree[trees]))


def _shortest_edges(
    neighbors: IntArray, distances: Vectors, trees: IntArray, is_waiting: Bools
) -> tuple[IntArray, Vectors]:
    """Return the shortest edge out of each tree not waiting, [T, 2], and the lengths, [T]."""
    offers = _offers(neighbors, distances, trees)
    order = np.lexsort((offers.distance, trees))
    order = order[~is_waiting[order]]
    _, first_of_tree = np.unique(trees[order], return_index=True)
    rows = order[first_of_tree]
    edges = np.stack([rows, neighbors[rows, offers.position[rows]]], axis=1)
    return edges, offers.distance[rows]


def _spanning_edges(pairs: IntArray, lengths: Vectors, images: int) -> IntArray:
    """Return those of the pairs that are edges of the minimum spanning forest, [E, 2].

    SciPy drops edges of length 0. It gets the ranks of the lengths instead, which also breaks ties.
    """
    pairs = np.sort(pairs, axis=1)
    _, distinct = np.unique(pairs[:, 0] * images + pairs[:, 1], return_index=True)
    distinct = distinct[np.argsort(lengths[distinct], kind="stable")]
    ranks = np.arange(1, len(distinct) + 1, dtype=np.float64)
    graph = coo_array((ranks, pairs[distinct].T), shape=(images, images)).tocsr()
    tree_ranks = np.sort(minimum_spanning_tree(graph).data).astype(np.int64)
    return np.asarray(pairs[distinct[tree_ranks - 1]])


def _sorted_forest(vectors: Vectors, edges: IntArray, facts: SearchFacts) -> Forest:
    """Return the forest with exact distances, in ascending order."""
    distances = pair_distances(vectors, edges)
    order = np.lexsort((edges[:, 1], edges[:, 0], distances))
    return Forest(len(vectors), edges[order], distances[order], facts)


def pair_distances(vectors: Vectors, pairs: IntArray) -> Doubles:
    """Return the cosine distances of pairs of rows, [E, 2] -> [E], in fp64, rounded to 7 digits."""
    distances = np.empty(len(pairs))
    for start in range(0, len(pairs), _PAIR_CHUNK):
        chunk = pairs[start : start + _PAIR_CHUNK]
        a = vectors[chunk[:, 0]].astype(np.float64)
        b = vectors[chunk[:, 1]].astype(np.float64)
        lengths = np.sqrt(np.einsum("nd,nd->n", a, a) * np.einsum("nd,nd->n", b, b))
        distances[start : start + _PAIR_CHUNK] = 1 - np.einsum("nd,nd->n", a, b) / lengths
    return np.asarray(np.maximum(np.round(distances, _DISTANCE_DIGITS), 0.0))


def _components(edges: IntArray, images: int) -> IntArray:
    """Return the number of each image's connected component, [N], from 0."""
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(images, images))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


# --- Cutting the forest ---


def threshold_for_share(forest: Forest, share: float) -> float:
    """Return the threshold at which the share of images removed is nearest to `share`.

    If two are equally near, the one that removes fewer images is returned. The threshold is in the
    middle between the two distances it separates. Images that are equally far apart are joined
    together, so not every share can be met. 0.0 joins nothing.

    Args:
        forest: to be cut.
        share: of all images, in [0, 1).
    """
    distances, counts = np.unique(forest.distances, return_counts=True)
    removed = np.concatenate([[0], np.cumsum(counts)])
    best = int(np.abs(removed - share * forest.images).argmin())
    if best == 0:
        return 0.0
    if best < len(distances):
        next_distance = distances[best]
    else:
        next_distance = distances[-1] + 2 * 10**-_CUT_DIGITS
    return float((distances[best - 1] + next_distance) / 2)


def cut_forest(forest: Forest, threshold: float) -> IntArray:
    """Return the number of each image's set, [N], from 0.

    Images are in one set if a chain of edges below the threshold joins them.
    """
    return _components(forest.edges[forest.distances < threshold], forest.images)


def nearest_to_center(vectors: Vectors, sets: IntArray) -> IntArray:
    """Return the row of each set that is nearest to the mean of its vectors, [sets].

    Of equally near ones it is the first.

    Args:
        vectors: [N, D], unit length.
        sets: [N] number of each row's set.
    """
    order = np.argsort(sets, kind="stable")
    set_starts = np.flatnonzero(np.diff(sets[order], prepend=-1))
    nearest = []
    for chunk in _chunks_of_sets(set_starts, len(sets)):
        starts = set_starts[chunk.first_set : chunk.end_set] - chunk.first_row
        rows = order[chunk.first_row : chunk.end_row]
        nearest.append(_nearest_to_centers(vectors, rows, starts))
    return np.concatenate(nearest)


class _Chunk(NamedTuple):
    """Consecutive sets and their rows; the ends are exclusive."""

    first_set: int
    end_set: int
    first_row: int
    end_row: int


def _chunks_of_sets(set_starts: IntArray, total_rows: int) -> Iterator[_Chunk]:
    """Yield whole sets, as many as fit into a chunk of rows but at least one."""
    set_ends = np.append(set_starts[1:], total_rows)
    first = 0
    while first < len(set_starts):
        last_row = set_starts[first] + _CENTER_CHUNK
        end = max(first + 1, int(np.searchsorted(set_ends, last_row, side="right")))
        yield _Chunk(first, end, int(set_starts[first]), int(set_ends[end - 1]))
        first = end


def _nearest_to_centers(vectors: Vectors, rows: IntArray, set_starts: IntArray) -> IntArray:
    """Return the row nearest to the center of each set.

    Args:
        vectors: [N, D], unit length.
        rows: rows of some sets, one set after the other.
        set_starts: position in `rows` at which each set starts.
    """
    members = vectors[rows]
    sums = np.add.reduceat(members, set_starts, axis=0, dtype=np.float64)
    lengths = np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    centers = (sums / lengths).astype(np.float32)
    set_sizes = np.diff(np.append(set_starts, len(rows)))
    set_of_row = np.repeat(np.arange(len(set_starts)), set_sizes)
    # The two images of a pair are equally near; without rounding the last bit would decide.
    cosines = np.round(np.einsum("nd,nd->n", members, centers[set_of_row]), _CUT_DIGITS)
    highest = np.maximum.reduceat(cosines, set_starts)
    nearest = np.flatnonzero(cosines == highest[set_of_row])
    _, first_of_set = np.unique(set_of_row[nearest], return_index=True)
    return rows[nearest[first_of_set]]


class FarthestPair(NamedTuple):
    """The two images of a set that are farthest apart.

    Attributes:
        first: row.
        second: row.
        distance: their cosine distance.
        is_exact: whether all pairs were compared; otherwise `distance` is a lower bound.
    """

    first: int
    second: int
    distance: float
    is_exact: bool


def farthest_pair(vectors: Vectors, rows: IntArray) -> FarthestPair:
    """Find the two images of a set that are farthest apart.

    In a set of more than 20,000 images, only the farthest image from the farthest image from the
    first one is looked for.

    Args:
        vectors: [N, D], unit length.
        rows: of the set.
    """
    members = vectors[rows]
    is_exact = len(rows) <= _MAX_ALL_PAIRS
    if is_exact:
        a, b = _lowest_cosine(members)
    else:
        a = int((members @ members[0]).argmin())
        b = int((members @ members[a]).argmin())
    first = int(rows[a])
    second = int(rows[b])
    distance = float(pair_distances(vectors, np.array([[first, second]]))[0])
    return FarthestPair(first, second, distance, is_exact)


def _lowest_cosine(members: Vectors) -> tuple[int, int]:
    """Return the positions of the two vectors with the lowest cosine, comparing all pairs."""
    lowest = np.inf
    pair = (0, 0)
    for start in range(0, len(members), 1024):
        cosines: NDArray[np.float32] = members[start : start + 1024] @ members.T
        row, column = divmod(int(cosines.argmin()), len(members))
        if cosines[row, column] < lowest:
            lowest = float(cosines[row, column])
            pair = (start + row, column)
    return pair

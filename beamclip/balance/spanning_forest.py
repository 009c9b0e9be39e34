"""Group images into sets of near-duplicates with the minimum spanning forest of their distances.

Joining all pairs of images below a threshold gives the same sets as joining only the edges of a
minimum spanning forest below it. The reason: of all paths between two images, the path in the
forest has the shortest longest edge. So at most N - 1 sorted edges give the sets for every
threshold. Each of them below the threshold joins two sets, and of each set one image is kept. So
the number of such edges is the number of images removed.

- `exact_forest` and `indexed_forest` build the forest.
- `threshold_for_share` and `cut_forest` cut it.
- `nearest_to_center` chooses the image of each set that is kept.
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

# Nearest neighbors that are kept for each image. More need more memory, fewer mean more searches.
_REMEMBERED_NEIGHBORS = 16
# Distances are rounded to this many decimals. Embeddings are stored as fp16, so further decimals
# are noise, which would differ between machines.
_DISTANCE_DIGITS = 7
# Pairs whose distances are computed at once.
_PAIR_CHUNK = 65_536
# Rows whose sets' centers are computed at once.
_CENTER_CHUNK = 16_384
# Cosines with centers are rounded to this many decimals.
_CUT_DIGITS = 6
# Largest set in which all pairs are compared to find the two images that are farthest apart.
_MAX_ALL_PAIRS = 20_000
# Rows that are compared with all rows of such a set at once: at most 78 MiB of cosines.
_ROWS_PER_BLOCK = 1024

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Forest:
    """A minimum spanning forest, with edges in ascending order of distance.

    Attributes:
        images: number of images N.
        edges: rows of the two images of each edge, int64 [E, 2]. E is N - 1, or less if an index
            found no path between some images.
        distances: cosine distances of the edges, rounded to 7 decimals, fp64 [E].
        facts: how nearest neighbors were found.
    """

    images: int
    edges: IntArray
    distances: Doubles
    facts: SearchFacts


# --- Building the forest ---


def exact_forest(vectors: Vectors, progress: Progress = silent) -> Forest:
    """Build the forest from all pairs of images, with Borůvka's algorithm.

    At first every image is a tree. In each round every tree is joined to another one by its
    shortest edge to the outside, until a single tree is left.

    All pairs are compared once, and each image keeps a list of its nearest neighbors. If all of
    them are in its own tree, its neighbors outside are at least as far away as the last one of the
    list. The image is compared with all others again only if its tree has no edge as short as that.

    The largest tree takes no edge of its own, since the others will join it. Most images are in it
    in the last rounds, and they need not be compared again.

    Args:
        vectors: unit length, fp32 [N, D].
        progress: called during the first comparison of all pairs.
    """
    images = len(vectors)
    # Number of each image's tree.
    trees = np.arange(images)
    edges = np.empty((0, 2), np.int64)
    lengths = np.empty(0, np.float32)
    neighbors, distances = nearest_in_other_groups(
        vectors, trees, trees, _REMEMBERED_NEIGHBORS, progress
    )
    compared_rows = images
    tree_sizes = np.bincount(trees)
    while len(tree_sizes) > 1:
        # Search again for images whose list can't answer.
        is_waiting = trees == tree_sizes.argmax()
        is_stale = _is_stale(neighbors, distances, trees) & ~is_waiting
        if is_stale.any():
            rows = np.flatnonzero(is_stale)
            neighbors[rows], distances[rows] = nearest_in_other_groups(
                vectors, rows, trees, _REMEMBERED_NEIGHBORS
            )
            compared_rows += len(rows)

        # Join each of the other trees to its nearest one.
        new_edges, new_lengths = _shortest_edges(neighbors, distances, trees, is_waiting)
        edges = np.concatenate([edges, new_edges])
        lengths = np.concatenate([lengths, new_lengths])
        trees = _components(edges, images)
        tree_sizes = np.bincount(trees)
    facts: SearchFacts = {"method": "exact", "passes": round(compared_rows / images, 2)}
    # Two trees may have taken the same edge, or equally short ones that close a cycle.
    return _sorted_forest(vectors, _spanning_edges(edges, lengths, images), facts)


def indexed_forest(vectors: Vectors, count: int, progress: Progress = silent) -> Forest:
    """Build the forest from the approximate nearest neighbors of each image.

    Missing neighbors may split a set of `exact_forest` into several, but never join two of them.

    Args:
        vectors: unit length, fp32 [N, D].
        count: number of neighbors of each image.
        progress: called while neighbors are found.

    Raises:
        UserError: faiss is not installed.
    """
    neighbors = approximate_neighbors(vectors, min(count, len(vectors) - 1), progress)
    is_neighbor = np.isfinite(neighbors.distances)
    images, _ = np.nonzero(is_neighbor)
    pairs = np.stack([images, neighbors.rows[is_neighbor]], axis=1)
    edges = _spanning_edges(pairs, neighbors.distances[is_neighbor], len(vectors))
    return _sorted_forest(vectors, edges, neighbors.facts)


class _OutsideNeighbors(NamedTuple):
    """For each image, the nearest neighbor in its list that is in another tree.

    Attributes:
        exists: whether there is one, [N].
        position: its position in the image's list, [N].
        distance: its distance, inf if there is none, [N].
    """

    exists: Bools
    position: IntArray
    distance: Vectors


def _outside_neighbors(
    neighbors: IntArray, distances: Vectors, trees: IntArray
) -> _OutsideNeighbors:
    """Look up each image's nearest neighbor in another tree.

    Args:
        neighbors: each image's list of neighbors, nearest first, [N, k].
        distances: their distances, inf if there is no neighbor, [N, k].
        trees: number of each image's tree, [N].
    """
    is_outside = (trees[neighbors] != trees[:, None]) & np.isfinite(distances)
    exists = is_outside.any(axis=1)
    # argmax returns the first True, which is the nearest since lists are sorted.
    position = is_outside.argmax(axis=1)
    nearest = np.where(exists, distances[np.arange(len(distances)), position], np.inf)
    return _OutsideNeighbors(exists, position, nearest.astype(np.float32))


def _is_stale(neighbors: IntArray, distances: Vectors, trees: IntArray) -> Bools:
    """Return which images must be compared with all others again, [N].

    Their lists have no neighbor outside their tree, and yet such a neighbor could be nearer than
    any that the lists of their tree have. For the arguments see `_outside_neighbors`.
    """
    outside = _outside_neighbors(neighbors, distances, trees)
    best_of_tree = np.full(trees.max() + 1, np.inf, np.float32)
    np.minimum.at(best_of_tree, trees, outside.distance)
    # Images that are not in a list are at least as far away as its last one.
    lower_bound = distances[:, -1]
    return np.asarray(~outside.exists & (lower_bound < best_of_tree[trees]))


def _shortest_edges(
    neighbors: IntArray, distances: Vectors, trees: IntArray, is_waiting: Bools
) -> tuple[IntArray, Vectors]:
    """Return the shortest edge out of each tree that isn't waiting, and the edges' lengths.

    Args:
        neighbors: see `_outside_neighbors`.
        distances: see `_outside_neighbors`.
        trees: number of each image's tree, [N].
        is_waiting: True for the images of the tree that takes no edge, [N].

    Returns:
        Rows of the two images of each edge, [T, 2], and cosine distances, [T].
    """
    outside = _outside_neighbors(neighbors, distances, trees)
    # By tree, then by distance: the first image of each tree has the tree's shortest edge.
    order = np.lexsort((outside.distance, trees))
    order = order[~is_waiting[order]]
    _, first_of_tree = np.unique(trees[order], return_index=True)
    rows = order[first_of_tree]
    edges = np.stack([rows, neighbors[rows, outside.position[rows]]], axis=1)
    return edges, outside.distance[rows]


def _spanning_edges(pairs: IntArray, lengths: Vectors, images: int) -> IntArray:
    """Select the pairs that are edges of the minimum spanning forest.

    Args:
        pairs: rows of two images in either order, possibly repeated, [P, 2].
        lengths: cosine distances of the pairs, [P].
        images: number of images N.

    Returns:
        [E, 2].
    """
    # Drop repeated pairs, and sort by length.
    pairs = np.sort(pairs, axis=1)
    _, distinct = np.unique(pairs[:, 0] * images + pairs[:, 1], return_index=True)
    distinct = distinct[np.argsort(lengths[distinct], kind="stable")]
    # SciPy takes an entry of 0 for a missing edge, but exact duplicates have distance 0. It gets
    # the ranks of the lengths instead, which are never 0 and also break ties.
    ranks = np.arange(1, len(distinct) + 1, dtype=np.float64)
    graph = coo_array((ranks, pairs[distinct].T), shape=(images, images)).tocsr()
    tree_ranks = np.sort(minimum_spanning_tree(graph).data).astype(np.int64)
    return np.asarray(pairs[distinct[tree_ranks - 1]])


def _sorted_forest(vectors: Vectors, edges: IntArray, facts: SearchFacts) -> Forest:
    """Return the forest of these edges, sorted by their distances, which are computed in fp64."""
    distances = pair_distances(vectors, edges)
    order = np.lexsort((edges[:, 1], edges[:, 0], distances))
    return Forest(len(vectors), edges[order], distances[order], facts)


def pair_distances(vectors: Vectors, pairs: IntArray) -> Doubles:
    """Return the cosine distances of pairs of rows.

    Args:
        vectors: [N, D].
        pairs: rows, int64 [E, 2].

    Returns:
        fp64 [E], rounded to 7 decimals and never below 0.
    """
    distances = np.empty(len(pairs))
    for start in range(0, len(pairs), _PAIR_CHUNK):
        chunk = pairs[start : start + _PAIR_CHUNK]
        a = vectors[chunk[:, 0]].astype(np.float64)
        b = vectors[chunk[:, 1]].astype(np.float64)
        lengths = np.sqrt(np.einsum("nd,nd->n", a, a) * np.einsum("nd,nd->n", b, b))
        distances[start : start + _PAIR_CHUNK] = 1 - np.einsum("nd,nd->n", a, b) / lengths
    return np.asarray(np.maximum(np.round(distances, _DISTANCE_DIGITS), 0.0))


def _components(edges: IntArray, images: int) -> IntArray:
    """Return the number of each image's connected component, from 0, [N]."""
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(images, images))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


# --- Cutting the forest ---


def threshold_for_share(forest: Forest, share: float) -> float:
    """Return the threshold that removes the share of images nearest to `share`.

    Edges of equal length are all below a threshold or none, so not every share can be met. If two
    thresholds come equally near, the one that removes fewer images is returned.

    Args:
        forest: the forest to cut.
        share: share of the images to remove, in [0, 1).

    Returns:
        A cosine distance halfway between two lengths of edges. 0.0 removes nothing.
    """
    distances, counts = np.unique(forest.distances, return_counts=True)
    # removed[n] images are removed if the n shortest distinct lengths are below the threshold.
    removed = np.concatenate([[0], np.cumsum(counts)])
    best = int(np.abs(removed - share * forest.images).argmin())
    if best == 0:
        return 0.0
    longest_joined = distances[best - 1]
    if best < len(distances):
        next_distance = distances[best]
    else:
        # All edges are joined; any threshold above the longest one does.
        next_distance = longest_joined + 2 * 10**-_CUT_DIGITS
    return float((longest_joined + next_distance) / 2)


def cut_forest(forest: Forest, threshold: float) -> IntArray:
    """Return the number of each image's set, from 0, int64 [N].

    Two images are in one set if edges shorter than the threshold connect them.

    Args:
        forest: the forest to cut.
        threshold: cosine distance.
    """
    return _components(forest.edges[forest.distances < threshold], forest.images)


def nearest_to_center(vectors: Vectors, sets: IntArray) -> IntArray:
    """Return the row of each set whose vector is nearest to the mean of the set's vectors.

    Of equally near rows it is the first.

    Args:
        vectors: unit length, fp32 [N, D].
        sets: number of each row's set, from 0, [N].

    Returns:
        int64 [sets].
    """
    # Rows in the order of their sets, and the position at which each set starts.
    order = np.argsort(sets, kind="stable")
    set_starts = np.flatnonzero(np.diff(sets[order], prepend=-1))
    nearest = []
    for chunk in _chunks_of_sets(set_starts, len(sets)):
        starts = set_starts[chunk.first_set : chunk.end_set] - chunk.first_row
        rows = order[chunk.first_row : chunk.end_row]
        nearest.append(_nearest_to_centers(vectors, rows, starts))
    return np.concatenate(nearest)


class _Chunk(NamedTuple):
    """Consecutive sets, and the positions of their rows when sorted by set. Ends are exclusive."""

    first_set: int
    end_set: int
    first_row: int
    end_row: int


def _chunks_of_sets(set_starts: IntArray, total_rows: int) -> Iterator[_Chunk]:
    """Yield chunks of whole sets, of at most `_CENTER_CHUNK` rows unless a set has more."""
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
        vectors: unit length, fp32 [N, D].
        rows: rows of some sets, one set after the other.
        set_starts: position in `rows` at which each set starts.
    """
    # Center of each set. It is scaled to unit length, which changes no order of the cosines.
    members = vectors[rows]
    sums = np.add.reduceat(members, set_starts, axis=0, dtype=np.float64)
    # Opposite vectors add up to 0, which must not be divided by.
    lengths = np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    centers = (sums / lengths).astype(np.float32)

    set_sizes = np.diff(np.append(set_starts, len(rows)))
    set_of_row = np.repeat(np.arange(len(set_starts)), set_sizes)
    # The two images of a pair are equally near. Without rounding, the last bit would decide.
    cosines = np.round(np.einsum("nd,nd->n", members, centers[set_of_row]), _CUT_DIGITS)
    highest = np.maximum.reduceat(cosines, set_starts)
    nearest = np.flatnonzero(cosines == highest[set_of_row])
    _, first_of_set = np.unique(set_of_row[nearest], return_index=True)
    return rows[nearest[first_of_set]]


class FarthestPair(NamedTuple):
    """The two images of a set that are farthest apart.

    Attributes:
        first: row of one image.
        second: row of the other image.
        distance: their cosine distance.
        is_exact: whether all pairs were compared. If not, `distance` is a lower bound.
    """

    first: int
    second: int
    distance: float
    is_exact: bool


def farthest_pair(vectors: Vectors, rows: IntArray) -> FarthestPair:
    """Find the two images of a set that are farthest apart.

    In a set of more than 20,000 images not all pairs are compared, and the result may be a pair
    that is less far apart.

    Args:
        vectors: unit length, fp32 [N, D].
        rows: rows of the set.
    """
    members = vectors[rows]
    is_exact = len(rows) <= _MAX_ALL_PAIRS
    if is_exact:
        first_position, second_position = _lowest_cosine(members)
    else:
        # The image farthest from the set's first one, and the image farthest from that.
        first_position = int((members @ members[0]).argmin())
        second_position = int((members @ members[first_position]).argmin())
    first = int(rows[first_position])
    second = int(rows[second_position])
    distance = float(pair_distances(vectors, np.array([[first, second]]))[0])
    return FarthestPair(first, second, distance, is_exact)


def _lowest_cosine(members: Vectors) -> tuple[int, int]:
    """Return the positions of the two vectors with the lowest cosine, comparing all pairs."""
    lowest = np.inf
    pair = (0, 0)
    for start in range(0, len(members), _ROWS_PER_BLOCK):
        cosines: NDArray[np.float32] = members[start : start + _ROWS_PER_BLOCK] @ members.T
        row, column = divmod(int(cosines.argmin()), len(members))
        if cosines[row, column] < lowest:
            lowest = float(cosines[row, column])
            pair = (start + row, column)
    return pair

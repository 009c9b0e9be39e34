import numpy as np
import pytest
from scipy.sparse.csgraph import minimum_spanning_tree

from beamclip.balance import spanning_forest as module
from beamclip.balance.spanning_forest import (
    Forest,
    cut_forest,
    exact_forest,
    farthest_pair,
    indexed_forest,
    nearest_to_center,
    pair_distances,
    threshold_for_share,
)


def all_distances(vectors):
    rows = vectors.astype(np.float64)
    return np.maximum(
        np.round(1 - rows @ rows.T / np.outer(*[np.linalg.norm(rows, axis=1)] * 2), 7), 0
    )


def by_union_find(distances, threshold):
    """Join every pair below the threshold, one after the other."""
    leader = list(range(len(distances)))

    def find(row):
        while leader[row] != row:
            row = leader[row]
        return row

    for a, b in zip(*np.nonzero(distances < threshold), strict=True):
        leader[find(a)] = find(b)
    return [find(row) for row in range(len(distances))]


def same_sets(a, b):
    return len(set(zip(a, b, strict=True))) == len(set(a)) == len(set(b))


def test_the_forest_is_as_short_as_scipys_on_all_pairs(clustered):
    forest = exact_forest(clustered)
    # SciPy drops edges of length 0.
    true = np.sort(minimum_spanning_tree(all_distances(clustered) + 1e-3).data) - 1e-3
    assert forest.edges.shape == (599, 2)
    assert forest.distances == pytest.approx(true, abs=2e-7)
    assert (np.diff(forest.distances) >= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    # With few remembered neighbors, most rounds compare images again.
    "remembered",
    [1, 2, 16],
)
@pytest.mark.parametrize("threshold", [0.0001, 0.02, 0.1, 0.3, 0.7])
def test_cutting_the_forest_gives_the_sets_of_union_find_over_all_pairs(
    clustered, monkeypatch, remembered, threshold
):
    monkeypatch.setattr(module, "_REMEMBERED_NEIGHBORS", remembered)
    sets = cut_forest(exact_forest(clustered), threshold).tolist()
    assert same_sets(sets, by_union_find(all_distances(clustered), threshold))


@pytest.mark.parametrize("threshold", [0.0001, 0.02, 0.1, 0.3])
def test_an_index_with_enough_neighbors_gives_the_same_sets(clustered, threshold):
    exact, indexed = exact_forest(clustered), indexed_forest(clustered, 80)
    assert same_sets(cut_forest(exact, threshold).tolist(), cut_forest(indexed, threshold).tolist())


def test_an_index_with_few_neighbors_only_leaves_sets_apart(clustered):
    exact, indexed = (
        cut_forest(exact_forest(clustered), 0.1),
        cut_forest(indexed_forest(clustered, 1), 0.1),
    )
    assert indexed.max() > exact.max()
    for number in range(indexed.max() + 1):
        assert len(set(exact[indexed == number])) == 1


@pytest.mark.parametrize("find", [exact_forest, lambda vectors: indexed_forest(vectors, 8)])
def test_the_forest_is_deterministic(clustered, find):
    first = find(clustered)
    second = find(clustered)
    assert (first.edges == second.edges).all() and (first.distances == second.distances).all()


def test_equal_images_are_one_tree_of_length_zero():
    forest = exact_forest(np.tile(np.float32([[0.6, 0.8]]), (50, 1)))
    assert len(forest.edges) == 49 and (forest.distances == 0).all()


def test_one_image_has_no_edge(on_a_circle):
    assert len(exact_forest(on_a_circle(0)).edges) == 0


def test_distances_of_pairs(on_a_circle):
    distances = pair_distances(on_a_circle(0, 60, 180), np.array([[0, 1], [0, 2], [1, 1]]))
    assert distances == pytest.approx([0.5, 2, 0], abs=1e-7)


# --- Cutting the forest ---

STEP = 1 - np.cos(np.deg2rad(10))


def chain_forest(images, *distances):
    edges = np.array([[n, n + 1] for n in range(len(distances))], np.int64).reshape(-1, 2)
    return Forest(images, edges, np.array(distances, float), {})


def test_a_chain_is_one_set_even_if_its_ends_are_far_apart(on_a_circle):
    forest = exact_forest(on_a_circle(0, 10, 20, 30, 90))
    assert cut_forest(forest, 1.01 * STEP).tolist() == [0, 0, 0, 0, 1]
    assert farthest_pair(on_a_circle(0, 10, 20, 30, 90), np.arange(4))[:3] == (
        0,
        3,
        pytest.approx(1 - np.cos(np.deg2rad(30)), abs=1e-6),
    )


def test_only_distances_below_the_threshold_join():
    forest = chain_forest(3, 0.1, 0.2)
    assert (
        cut_forest(forest, 0.1).max() == 2
        and cut_forest(forest, 0.10001).max() == 1
        and cut_forest(forest, 0.2).max() == 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.437, 0.6, 0.95])
def test_no_other_threshold_removes_a_share_nearer_to_the_requested_one(clustered, share):
    forest = exact_forest(clustered)
    shares = [
        1 - (cut_forest(forest, t).max() + 1) / 600
        for t in [0.0, *np.unique(forest.distances) + 1e-8]
    ]
    removed = 1 - (cut_forest(forest, threshold_for_share(forest, share)).max() + 1) / 600
    assert abs(removed - share) == pytest.approx(min(abs(other - share) for other in shares))


def test_the_threshold_is_midway_between_the_distances_it_separates():
    forest = chain_forest(5, 0.1, 0.2, 0.4, 0.5)
    assert threshold_for_share(forest, 0.4) == pytest.approx(0.3)
    assert threshold_for_share(forest, 0.5) == pytest.approx(
        0.3
    )  # 0.4 and 0.6 are equally near: choose the one that removes fewer
    assert threshold_for_share(forest, 0.79) > 0.5
    assert threshold_for_share(forest, 0.05) == 0


def test_equally_far_pairs_are_joined_together():
    forest = chain_forest(10, *[0.1] * 6)
    assert (
        threshold_for_share(forest, 0.2) == 0
        and cut_forest(forest, threshold_for_share(forest, 0.4)).max() == 3
    )


def test_the_image_nearest_to_the_center_is_kept(on_a_circle):
    vectors = on_a_circle(0, 50, 8, 10, 90, 300)
    assert nearest_to_center(vectors, np.array([0, 1, 0, 0, 1, 2])).tolist() == [
        2,
        1,
        5,
    ]  # of two equally near ones, the first


@pytest.mark.parametrize("chunk", [1, 100, 16_384])
def test_kept_images_are_those_of_the_definition(clustered, monkeypatch, chunk):
    monkeypatch.setattr(module, "_CENTER_CHUNK", chunk)
    sets = cut_forest(exact_forest(clustered), 0.1)
    for number, kept in enumerate(nearest_to_center(clustered, sets)):
        rows = np.flatnonzero(sets == number)
        distances = np.linalg.norm(clustered[rows] - clustered[rows].mean(axis=0), axis=1)
        assert kept in rows and np.linalg.norm(
            clustered[kept] - clustered[rows].mean(axis=0)
        ) == pytest.approx(distances.min(), abs=1e-5)


def test_the_farthest_pair_of_a_large_set_is_only_a_lower_bound(clustered, monkeypatch):
    rows = np.arange(50, 400)
    a, b, true, is_exact = farthest_pair(clustered, rows)
    everything = 1 - clustered[rows].astype(float) @ clustered[rows].astype(float).T
    assert (
        is_exact
        and true == pytest.approx(everything.max(), abs=1e-6)
        and {a, b} <= set(rows.tolist())
    )
    monkeypatch.setattr(module, "_MAX_ALL_PAIRS", 10)
    *_, lower, is_exact = farthest_pair(clustered, rows)
    assert not is_exact and 0.5 * true < lower <= true

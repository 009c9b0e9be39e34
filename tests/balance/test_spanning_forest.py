import numpy as np
import pytest
from scipy.sparse.csgraph import minimum_spanning_tree

from beamclip.balance import spanning_forest as module
from beamclip.balance.spanning_forest import exact_forest, indexed_forest, pair_distances, sets_at


def all_distances(vectors):
    rows = vectors.astype(np.float64)
    return np.maximum(
        np.round(1 - rows @ rows.T / np.outer(*[np.linalg.norm(rows, axis=1)] * 2), 7), 0
    )


def by_union_find(distances, threshold):
    """Every pair below the threshold joined, one after the other."""
    leader = list(range(len(distances)))

    def find(one):
        while leader[one] != one:
            one = leader[one]
        return one

    for a, b in zip(*np.nonzero(distances < threshold), strict=True):
        leader[find(a)] = find(b)
    return [find(one) for one in range(len(distances))]


def same_sets(a, b):
    return len(set(zip(a, b, strict=True))) == len(set(a)) == len(set(b))


def test_the_forest_is_as_short_as_scipys_on_all_pairs(clustered):
    forest = exact_forest(clustered)
    true = (
        np.sort(minimum_spanning_tree(all_distances(clustered) + 1e-3).data) - 1e-3
    )  # a length of 0 would be no edge to SciPy
    assert forest.edges.shape == (599, 2)
    assert forest.distances == pytest.approx(true, abs=2e-7)
    assert (np.diff(forest.distances) >= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "kept", [1, 2, 16]
)  # with few remembered neighbours most rounds compare again
@pytest.mark.parametrize("threshold", [0.0001, 0.02, 0.1, 0.3, 0.7])
def test_cutting_the_forest_gives_the_sets_of_union_find_over_all_pairs(
    clustered, monkeypatch, kept, threshold
):
    monkeypatch.setattr(module, "_KEPT", kept)
    sets = sets_at(exact_forest(clustered), threshold).tolist()
    assert same_sets(sets, by_union_find(all_distances(clustered), threshold))


@pytest.mark.parametrize("threshold", [0.0001, 0.02, 0.1, 0.3])
def test_an_index_whose_lists_reach_out_of_every_cluster_gives_the_same_sets(clustered, threshold):
    exact, indexed = exact_forest(clustered), indexed_forest(clustered, 80)
    assert same_sets(sets_at(exact, threshold).tolist(), sets_at(indexed, threshold).tolist())


def test_an_index_with_few_neighbours_leaves_sets_apart_and_joins_none_that_are(clustered):
    exact, indexed = (
        sets_at(exact_forest(clustered), 0.1),
        sets_at(indexed_forest(clustered, 1), 0.1),
    )
    assert indexed.max() > exact.max()
    for number in range(indexed.max() + 1):
        assert len(set(exact[indexed == number])) == 1


@pytest.mark.parametrize("find", [exact_forest, lambda vectors: indexed_forest(vectors, 8)])
def test_twice_the_same(clustered, find):
    one, two = find(clustered), find(clustered)
    assert (one.edges == two.edges).all() and (one.distances == two.distances).all()


def test_images_that_are_all_alike_are_one_tree_of_length_zero():
    forest = exact_forest(np.tile(np.float32([[0.6, 0.8]]), (50, 1)))
    assert len(forest.edges) == 49 and (forest.distances == 0).all()


def test_one_image_has_no_edge(on_a_circle):
    assert len(exact_forest(on_a_circle(0)).edges) == 0


def test_distances_of_pairs(on_a_circle):
    distances = pair_distances(on_a_circle(0, 60, 180), np.array([[0, 1], [0, 2], [1, 1]]))
    assert distances == pytest.approx([0.5, 2, 0], abs=1e-7)

import numpy as np
import pytest

from beamclip.balance import neighbors as neighbors_module
from beamclip.balance.neighbors import (
    approximate_neighbors,
    nearest_in_other_groups,
    normalize_rows,
    recall,
)
from beamclip.config import UserError


def sorted_by_distance(vectors, groups, row):
    """All vectors of other groups, from the nearest on."""
    return sorted(
        (1 - float(vectors[row] @ vectors[other]), other)
        for other in range(len(vectors))
        if groups[other] != groups[row]
    )


@pytest.mark.parametrize("cells", [2**25, 1500])  # all at once, and two or three rows per block
def test_nearest_of_other_groups_are_found_by_comparing_with_all(clustered, monkeypatch, cells):
    monkeypatch.setattr(neighbors_module, "_BLOCK_CELLS", cells)
    groups = np.random.default_rng(1).integers(0, 30, len(clustered))
    query_rows = np.array([0, 599, 7])
    rows, distances = nearest_in_other_groups(clustered, query_rows, groups, 5)
    for position, row in enumerate(query_rows):
        true = sorted_by_distance(clustered, groups, row)[:5]
        assert distances[position] == pytest.approx([distance for distance, _ in true], abs=1e-6)
        assert (groups[rows[position]] != groups[row]).all()


def test_an_image_finds_its_duplicate_but_never_itself(clustered):
    rows, distances = nearest_in_other_groups(clustered, np.arange(600), np.arange(600), 1)
    assert (rows[:, 0] != np.arange(600)).all()
    assert rows[:10, 0].tolist() == list(range(590, 600)) and distances[:10, 0] == pytest.approx(
        0, abs=1e-6
    )


def test_one_group_has_no_neighbors(on_a_circle):
    _, distances = nearest_in_other_groups(
        on_a_circle(0, 10, 20), np.arange(3), np.zeros(3, np.int64), 8
    )
    assert distances.shape == (3, 3) and np.isinf(distances).all()


def test_unit_vectors_have_length_one():
    assert np.linalg.norm(
        normalize_rows(np.array([[3.0, 4.0], [0.1, 0.0]])), axis=1
    ) == pytest.approx([1, 1])


def test_an_index_that_searches_all_lists_misses_nothing(clustered):
    neighbors = approximate_neighbors(clustered, 6)
    _, true = nearest_in_other_groups(clustered, np.arange(600), np.arange(600), 6)
    assert np.sort(neighbors.distances, axis=1)[:, :6] == pytest.approx(true, abs=1e-5)
    assert neighbors.facts == {
        "method": "index",
        "lists": 15,
        "probed": 15,
        "neighbours": 6,
        "recall": 1.0,
    }
    assert not (
        np.isfinite(neighbors.distances) & (neighbors.rows == np.arange(600)[:, None])
    ).any()


def test_recall_is_the_share_of_the_true_ten_that_are_in_the_lists(clustered):
    rows, distances = nearest_in_other_groups(clustered, np.arange(600), np.arange(600), 11)
    assert recall(clustered, rows, distances) == 1
    half = np.where(
        np.arange(11) % 2, np.inf, distances
    )  # the 1st, 3rd … are kept: six of eleven, so the list is short
    assert recall(clustered, rows, half.astype(np.float32)) < 0.5


def test_the_error_without_faiss_says_what_to_do(clustered, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(
        UserError,
        match=r'needs faiss; install it with pip install "beamclip\[index\]", '
        "or compare every pair with",
    ):
        approximate_neighbors(clustered, 4)

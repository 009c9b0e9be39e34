import numpy as np
import pytest

from beamclip.balance import spanning_forest as module
from beamclip.balance.spanning_forest import (
    Forest,
    exact_forest,
    farthest_pair,
    nearest_to_centre,
    sets_at,
    threshold_for,
)

STEP = 1 - np.cos(np.deg2rad(10))


def forest_of(images, *distances):
    edges = np.array([[n, n + 1] for n in range(len(distances))], np.int64).reshape(-1, 2)
    return Forest(images, edges, np.array(distances, float), {})


def test_a_chain_is_one_set_though_its_ends_are_far_apart(on_a_circle):
    forest = exact_forest(on_a_circle(0, 10, 20, 30, 90))
    assert sets_at(forest, 1.01 * STEP).tolist() == [0, 0, 0, 0, 1]
    assert farthest_pair(on_a_circle(0, 10, 20, 30, 90), np.arange(4))[:3] == (
        0,
        3,
        pytest.approx(1 - np.cos(np.deg2rad(30)), abs=1e-6),
    )


def test_only_distances_below_the_threshold_join():
    forest = forest_of(3, 0.1, 0.2)
    assert (
        sets_at(forest, 0.1).max() == 2
        and sets_at(forest, 0.10001).max() == 1
        and sets_at(forest, 0.2).max() == 1
    )


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.437, 0.6, 0.95])
def test_no_threshold_removes_a_share_nearer_to_the_one_asked_for(clustered, share):
    forest = exact_forest(clustered)
    shares = [
        1 - (sets_at(forest, t).max() + 1) / 600 for t in [0.0, *np.unique(forest.distances) + 1e-8]
    ]
    found = 1 - (sets_at(forest, threshold_for(forest, share)).max() + 1) / 600
    assert abs(found - share) == pytest.approx(min(abs(one - share) for one in shares))


def test_the_threshold_lies_between_the_distances_it_parts():
    forest = forest_of(5, 0.1, 0.2, 0.4, 0.5)
    assert threshold_for(forest, 0.4) == pytest.approx(0.3)
    assert threshold_for(forest, 0.5) == pytest.approx(
        0.3
    )  # 0.4 and 0.6 are as near: the one that removes fewer
    assert threshold_for(forest, 0.79) > 0.5
    assert threshold_for(forest, 0.05) == 0


def test_equally_far_pairs_go_together():
    forest = forest_of(10, *[0.1] * 6)
    assert (
        threshold_for(forest, 0.2) == 0 and sets_at(forest, threshold_for(forest, 0.4)).max() == 3
    )


def test_the_image_nearest_to_the_centre_is_kept(on_a_circle):
    vectors = on_a_circle(0, 50, 8, 10, 90, 300)
    assert nearest_to_centre(vectors, np.array([0, 1, 0, 0, 1, 2])).tolist() == [
        2,
        1,
        5,
    ]  # of two as near, the first


@pytest.mark.parametrize("chunk", [1, 100, 16_384])
def test_kept_images_are_those_of_the_definition(clustered, monkeypatch, chunk):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    sets = sets_at(exact_forest(clustered), 0.1)
    for number, kept in enumerate(nearest_to_centre(clustered, sets)):
        rows = np.flatnonzero(sets == number)
        distances = np.linalg.norm(clustered[rows] - clustered[rows].mean(axis=0), axis=1)
        assert kept in rows and np.linalg.norm(
            clustered[kept] - clustered[rows].mean(axis=0)
        ) == pytest.approx(distances.min(), abs=1e-5)


def test_in_a_set_too_large_to_compare_all_pairs_the_farthest_may_be_missed_and_that_is_said(
    clustered, monkeypatch
):
    rows = np.arange(50, 400)
    a, b, true, sure = farthest_pair(clustered, rows)
    everything = 1 - clustered[rows].astype(float) @ clustered[rows].astype(float).T
    assert (
        sure and true == pytest.approx(everything.max(), abs=1e-6) and {a, b} <= set(rows.tolist())
    )
    monkeypatch.setattr(module, "_ALL_PAIRS", 10)
    *_, lower, sure = farthest_pair(clustered, rows)
    assert not sure and 0.5 * true < lower <= true

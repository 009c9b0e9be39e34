import json
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F

from beamclip.anchors import similarity as similarity_module
from beamclip.anchors.similarity import NEAR_DUPLICATE, AnchorSimilarity, measure_similarity


def anchors(count, width=6, seed=0):
    return F.normalize(
        torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1
    )


def slow_similarity(rows, threshold, max_pairs):
    """All pairs, one at a time."""
    pairs = [(float(rows[i] @ rows[j]), i, j) for i, j in combinations(range(len(rows)), 2)]
    nearest = sorted(pairs, reverse=True)[:max_pairs]
    same, near = (sum(cosine >= least for cosine, _, _ in pairs) for least in (1 - 1e-5, threshold))
    return same, near, [(i, j) for _, i, j in nearest], [cosine for cosine, _, _ in nearest]


@pytest.mark.parametrize("rows", [1024, 7, 1])
@pytest.mark.parametrize("count", [2, 3, 40])
def test_equals_all_pairs_written_out(monkeypatch, count, rows):
    monkeypatch.setattr(similarity_module, "_BLOCK_ROWS", rows)
    vectors = anchors(count)
    vectors[-1] = vectors[0]
    similarity = measure_similarity(vectors, threshold=0.5, max_pairs=12)
    same, near, pairs, cosines = slow_similarity(vectors, 0.5, 12)
    assert (similarity.duplicates, similarity.near, similarity.threshold) == (same, near, 0.5)
    assert [(i, j) for i, j, _ in similarity.nearest] == pairs
    assert [cosine for *_, cosine in similarity.nearest] == pytest.approx(cosines, abs=1e-5)


def test_more_classes_than_fit_in_one_block_give_the_same_pairs():
    vectors = anchors(2500)
    for first, second in ((0, 2499), (1023, 1024), (2048, 2049)):
        vectors[second] = vectors[first]
    similarity = measure_similarity(vectors, max_pairs=3)
    assert similarity.duplicates == 3 and {(i, j) for i, j, _ in similarity.nearest} == {
        (0, 2499),
        (1023, 1024),
        (2048, 2049),
    }
    cosines = (vectors @ vectors.T).triu(1)
    assert similarity.near == int((cosines >= NEAR_DUPLICATE).sum()) > 100


def test_three_equal_classes_are_three_pairs():
    assert measure_similarity(anchors(5)[[0, 1, 0, 2, 0]]).duplicates == 3


@pytest.mark.parametrize(
    ("threshold", "near"),
    [(-1.0, 3), (0.7, 3), (0.708, 2), (0.9, 2), (0.92, 1), (0.94, 0), (1.0, 0)],
)
def test_pairs_at_or_above_the_threshold_are_near(threshold, near):
    """At 0°, 20° and 45°: cosines of 0.9397, 0.9063 and 0.7071."""
    angles = torch.deg2rad(torch.tensor([0.0, 20.0, 45.0]))
    assert (
        measure_similarity(torch.stack([angles.cos(), angles.sin()], dim=1), threshold).near == near
    )


@pytest.mark.parametrize("threshold", [NEAR_DUPLICATE, 1.0])
def test_duplicates_are_near_even_if_their_last_digits_differ(threshold):
    pair = F.normalize(torch.tensor([[0.6, 0.8, 0.0], [0.6, 0.8, 0.001]]), dim=1)
    assert 0 < 1 - float(pair[0] @ pair[1]) < 1e-5
    similarity = measure_similarity(pair, threshold)
    assert (similarity.duplicates, similarity.near) == (1, 1)


def test_one_class_has_no_pairs():
    assert measure_similarity(anchors(1)) == AnchorSimilarity(0, 0, NEAR_DUPLICATE, ())


def test_the_list_of_nearest_pairs_has_at_most_the_requested_length():
    assert (
        len(measure_similarity(anchors(20)).nearest) == 50
        and len(measure_similarity(anchors(4)).nearest) == 6
    )
    assert len(measure_similarity(anchors(20), max_pairs=1).nearest) == 1
    json.dumps(vars(measure_similarity(anchors(4))))

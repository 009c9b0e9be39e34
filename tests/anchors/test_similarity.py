import json
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F

from beamclip.anchors import similarity as module
from beamclip.anchors.similarity import NEAR, Likeness, likeness


def anchors(count, width=6, seed=0):
    return F.normalize(
        torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1
    )


def slow(rows, threshold, most):
    """All pairs, one at a time."""
    pairs = [(float(rows[i] @ rows[j]), i, j) for i, j in combinations(range(len(rows)), 2)]
    nearest = sorted(pairs, reverse=True)[:most]
    same, near = (sum(cosine >= least for cosine, _, _ in pairs) for least in (1 - 1e-5, threshold))
    return same, near, [(i, j) for _, i, j in nearest], [cosine for cosine, _, _ in nearest]


@pytest.mark.parametrize("rows", [1024, 7, 1])
@pytest.mark.parametrize("count", [2, 3, 40])
def test_equals_all_pairs_written_out(monkeypatch, count, rows):
    monkeypatch.setattr(module, "_ROWS", rows)
    some = anchors(count)
    some[-1] = some[0]
    found = likeness(some, threshold=0.5, most=12)
    same, near, pairs, cosines = slow(some, 0.5, 12)
    assert (found.duplicates, found.near, found.threshold) == (same, near, 0.5)
    assert [(i, j) for i, j, _ in found.nearest] == pairs
    assert [cosine for *_, cosine in found.nearest] == pytest.approx(cosines, abs=1e-5)


def test_more_classes_than_fit_one_block():
    some = anchors(2500)
    for first, second in ((0, 2499), (1023, 1024), (2048, 2049)):
        some[second] = some[first]
    found = likeness(some, most=3)
    assert found.duplicates == 3 and {(i, j) for i, j, _ in found.nearest} == {
        (0, 2499),
        (1023, 1024),
        (2048, 2049),
    }
    cosines = (some @ some.T).triu(1)
    assert found.near == int((cosines >= NEAR).sum()) > 100


def test_three_of_a_kind_are_three_pairs():
    assert likeness(anchors(5)[[0, 1, 0, 2, 0]]).duplicates == 3


@pytest.mark.parametrize(
    ("threshold", "near"),
    [(-1.0, 3), (0.7, 3), (0.708, 2), (0.9, 2), (0.92, 1), (0.94, 0), (1.0, 0)],
)
def test_near_are_those_at_the_threshold_and_above(threshold, near):
    """At 0°, 20° and 45°: cosines of 0.9397, 0.9063 and 0.7071."""
    angles = torch.deg2rad(torch.tensor([0.0, 20.0, 45.0]))
    assert likeness(torch.stack([angles.cos(), angles.sin()], dim=1), threshold).near == near


@pytest.mark.parametrize("threshold", [NEAR, 1.0])
def test_duplicates_are_near_whatever_the_last_digits_say(threshold):
    pair = F.normalize(torch.tensor([[0.6, 0.8, 0.0], [0.6, 0.8, 0.001]]), dim=1)
    assert 0 < 1 - float(pair[0] @ pair[1]) < 1e-5
    found = likeness(pair, threshold)
    assert (found.duplicates, found.near) == (1, 1)


def test_one_class_is_like_no_other():
    assert likeness(anchors(1)) == Likeness(0, 0, NEAR, ())


def test_no_more_pairs_are_named_than_asked_for_and_there_are():
    assert len(likeness(anchors(20)).nearest) == 50 and len(likeness(anchors(4)).nearest) == 6
    assert len(likeness(anchors(20), most=1).nearest) == 1
    json.dumps(vars(likeness(anchors(4))))

import math

import pytest
import torch

from beamclip.evaluation import accuracy, wilson_interval


def test_top_k_counts_the_k_highest():
    scores = torch.tensor([[9.0, 8, 7, 6, 5, 4], [4, 5, 6, 7, 8, 9], [9, 8, 7, 6, 5, 4], [4, 9, 5, 6, 7, 8]])
    labels = torch.tensor([0, 1, 5, 0])
    assert accuracy(scores, labels) == 25.0
    assert accuracy(scores, labels, k=5) == 50.0
    assert accuracy(scores.argmax(-1), labels) == 25.0


def test_a_label_without_a_column_is_a_miss():
    assert accuracy(torch.eye(2), torch.tensor([0, 7])) == 50.0


def test_wilson_is_the_known_interval():
    low, high = wilson_interval(90.0, 10)
    assert (low, high) == pytest.approx((59.58, 98.21), abs=0.01)
    for count in range(1, 200):  # exact at the ends, whatever the rounding
        assert wilson_interval(0.0, count)[0] == 0.0
        assert wilson_interval(100.0, count)[1] == 100.0


@pytest.mark.parametrize("p", [0.3, 0.95])
def test_wilson_covers_the_truth_as_often_as_it_says(p):
    n, covered = 200, 0.0
    for hits in range(n + 1):
        low, high = wilson_interval(100 * hits / n, n)
        if low <= 100 * p <= high:
            covered += math.comb(n, hits) * p**hits * (1 - p) ** (n - hits)
    assert covered == pytest.approx(0.95, abs=0.02)

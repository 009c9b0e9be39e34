"""Accuracies, Wilson intervals, confusions and the calibration error."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from beamclip.evaluation import accuracy, confusions, expected_calibration_error, wilson_interval
from beamclip.evaluation.metrics import per_class


def test_top_k_counts_the_k_highest():
    scores = torch.tensor(
        [[9.0, 8, 7, 6, 5, 4], [4, 5, 6, 7, 8, 9], [9, 8, 7, 6, 5, 4], [4, 9, 5, 6, 7, 8]]
    )
    labels = torch.tensor([0, 1, 5, 0])
    assert accuracy(scores, labels) == 25.0
    assert accuracy(scores, labels, k=5) == 50.0
    assert accuracy(scores.argmax(-1), labels) == 25.0


def test_a_label_without_a_column_is_a_miss():
    assert accuracy(torch.eye(2), torch.tensor([0, 7])) == 50.0


def test_wilson_is_the_known_interval():
    low, high = wilson_interval(90.0, 10)
    assert (low, high) == pytest.approx((59.58, 98.21), abs=0.01)
    for count in range(1, 200):  # exact at the ends for any rounding
        assert wilson_interval(0.0, count)[0] == 0.0
        assert wilson_interval(100.0, count)[1] == 100.0


def test_wilson_is_scipy_s_for_a_whole_number_of_hits():
    for hits in range(41):
        expected = binomtest(hits, 40).proportion_ci(method="wilson")
        assert wilson_interval(100 * hits / 40, 40) == pytest.approx(
            (100 * expected.low, 100 * expected.high), abs=1e-5
        )


@pytest.mark.parametrize("p", [0.3, 0.95])
def test_wilson_covers_the_true_accuracy_as_often_as_claimed(p):
    n = 200
    covered = 0.0
    for hits in range(n + 1):
        low, high = wilson_interval(100 * hits / n, n)
        if low <= 100 * p <= high:
            covered += math.comb(n, hits) * p**hits * (1 - p) ** (n - hits)
    assert covered == pytest.approx(0.95, abs=0.02)


@pytest.fixture
def logits_and_labels():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 8, (400,), generator=g)
    return 2 * F.one_hot(labels, 8) + 1.5 * torch.randn(400, 8, generator=g), labels


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_is_scikit_learn_s(logits_and_labels, k):
    logits, labels = logits_and_labels
    assert accuracy(logits, labels, k) == pytest.approx(
        100 * top_k_accuracy_score(labels.numpy(), logits.numpy(), k=k)
    )


def test_confusions_and_class_accuracies_are_scikit_learn_s(logits_and_labels):
    logits, labels = logits_and_labels
    predicted = logits.argmax(1)
    # The last of the 9 classes has no image.
    matrix = confusion_matrix(labels.numpy(), predicted.numpy(), labels=range(9))
    images, right = per_class(predicted, labels, 9)
    assert right.tolist() == matrix.diagonal().tolist()
    assert images.tolist() == matrix.sum(1).tolist()
    triples = confusions(predicted, labels)
    expected = {
        (true, guess): matrix[true, guess]
        for true in range(9)
        for guess in range(9)
        if true != guess and matrix[true, guess]
    }
    assert {(true, guess): count for true, guess, count in triples} == expected
    counts = [count for _, _, count in triples]
    assert counts == sorted(counts, reverse=True)
    assert confusions(labels, labels) == []


def test_calibration_error_is_the_equation_written_out(logits_and_labels):
    logits, labels = logits_and_labels
    confidence, predicted = logits.softmax(1).max(1)
    hits = predicted == labels
    confidence = confidence.double()
    total = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            bin_accuracy = hits[inside].double().mean().item()
            bin_confidence = confidence[inside].mean().item()
            total += int(inside.sum()) / 400 * abs(bin_accuracy - bin_confidence)
    assert expected_calibration_error(confidence, hits) == pytest.approx(100 * total, abs=1e-4)


def test_calibration_error_in_closed_form():
    confidence = torch.full((100,), 0.7)
    hits = torch.arange(100) < 70
    # Right as often as its confidence.
    assert expected_calibration_error(confidence, hits) == pytest.approx(0, abs=1e-5)
    assert expected_calibration_error(torch.ones(100), hits) == pytest.approx(30)
    # Overconfidence and underconfidence do not cancel.
    both = torch.cat([torch.full((50,), 0.9), torch.full((50,), 0.1)])
    assert expected_calibration_error(both, torch.arange(100) % 2 == 0) == pytest.approx(40)

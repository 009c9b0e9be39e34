"""The report of a classifier on test."""

import pytest
import torch
import torch.nn.functional as F

from beamclip.config import ProbeConfig
from beamclip.evaluation import accuracy, classification_report, expected_calibration_error
from beamclip.evaluation.report import report_details

CONFIG = ProbeConfig(bootstrap=200)


@pytest.fixture
def logits_and_labels():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 7, (300,), generator=g)
    return 2 * F.one_hot(labels, 7) + 1.5 * torch.randn(300, 7, generator=g), labels


def test_numbers_are_the_metrics_with_intervals_around_them(logits_and_labels):
    logits, labels = logits_and_labels
    report = classification_report(logits, labels, CONFIG)
    confidence, predicted = logits.softmax(1).max(1)
    assert report.metrics["top1"] == accuracy(logits, labels)
    assert report.metrics["top5"] == accuracy(logits, labels, 5)
    assert report.metrics["ece"] == expected_calibration_error(confidence, predicted == labels)
    for name in ("top1", "top5"):
        low, high = report.metrics[f"{name}_low"], report.metrics[f"{name}_high"]
        assert low < report.metrics[name] < high
    assert torch.equal(report.predicted, predicted)


def test_of_equal_scores_the_first_is_predicted_and_counted(logits_and_labels):
    logits, labels = logits_and_labels
    # Two pairs of classes with the same anchor have the same scores.
    with_twins = torch.cat([logits, logits[:, :1], logits[:, 3:4]], dim=1)
    report = classification_report(with_twins, labels, CONFIG)
    assert report.metrics["top1"] == accuracy(report.predicted, labels)
    assert report.metrics["top1"] == accuracy(logits, labels)
    assert report.metrics["top5"] >= report.metrics["top1"]
    assert report.predicted.max() < 7


def test_five_classes_have_no_top_five(logits_and_labels):
    logits, labels = logits_and_labels
    assert "top5" not in classification_report(logits[:, :5], labels, CONFIG).metrics


def test_details_add_up_to_the_metrics(logits_and_labels):
    logits, labels = logits_and_labels
    report = classification_report(logits, labels, CONFIG)
    details = report_details(report, labels, 8, CONFIG)
    assert details["top1"] == report.metrics["top1"]
    assert details["per_class"][7] == {
        "class": 7,
        "images": 0,
        "top1": None,
        "low": 0.0,
        "high": 100.0,
    }
    for row in details["per_class"][:7]:
        assert row["low"] <= row["top1"] <= row["high"]
    bins = details["calibration"]
    assert sum(row["images"] for row in bins) == 300
    gaps = sum(row["images"] * abs(row["accuracy"] - row["confidence"]) for row in bins) / 300
    assert gaps == pytest.approx(details["ece"], abs=1e-3)

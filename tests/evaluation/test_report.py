import pytest
import torch

from beamclip.config import ProbeConfig
from beamclip.evaluation import accuracy, expected_calibration_error, report
from beamclip.evaluation.report import details_of

CONFIG = ProbeConfig(bootstrap=200)


@pytest.fixture
def guesses():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 7, (300,), generator=g)
    return 2 * torch.nn.functional.one_hot(labels, 7) + 1.5 * torch.randn(
        300, 7, generator=g
    ), labels


def test_numbers_are_the_metrics_with_intervals_around_them(guesses):
    logits, labels = guesses
    found = report(logits, labels, CONFIG)
    confidence, predicted = logits.softmax(1).max(1)
    assert found.metrics["top1"] == accuracy(logits, labels) and found.metrics["top5"] == accuracy(
        logits, labels, 5
    )
    assert found.metrics["ece"] == expected_calibration_error(confidence, predicted == labels)
    for name in ("top1", "top5"):
        assert found.metrics[f"{name}_low"] < found.metrics[name] < found.metrics[f"{name}_high"]
    assert torch.equal(found.predicted, predicted)


def test_of_equal_scores_the_first_counts_in_the_number_and_in_the_files_alike(guesses):
    logits, labels = guesses
    twins = torch.cat(
        [logits, logits[:, :1], logits[:, 3:4]], dim=1
    )  # two names with the same anchor, twice
    found = report(twins, labels, CONFIG)
    assert found.metrics["top1"] == accuracy(found.predicted, labels) == accuracy(logits, labels)
    assert found.metrics["top5"] >= found.metrics["top1"]
    assert found.predicted.max() < 7


def test_five_classes_have_no_top_five(guesses):
    logits, labels = guesses
    assert "top5" not in report(logits[:, :5], labels, CONFIG).metrics


def test_details_add_up(guesses):
    logits, labels = guesses
    found = report(logits, labels, CONFIG)
    details = details_of(found, labels, 8, CONFIG)
    assert details["top1"] == found.metrics["top1"]
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

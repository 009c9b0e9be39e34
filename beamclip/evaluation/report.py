"""Report a classifier's results on test: metrics with intervals, per class and by confidence."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from beamclip.config import ProbeConfig
from beamclip.evaluation.bootstrap import (
    Interval,
    bootstrap_intervals,
    class_accuracy_intervals,
)
from beamclip.evaluation.metrics import (
    calibration_bins,
    confusions,
    expected_calibration_error,
    per_class,
)


@dataclass(frozen=True)
class ClassificationReport:
    """Results of one classifier on test.

    Attributes:
        metrics: `top1`, `top5` (for more than 5 classes) and `ece`, in percent. Each also has its
            95 % interval, as `NAME_low` and `NAME_high`.
        predicted: predicted classes, int64 [N].
        confidence: probability of the predicted class, fp32 [N] in 0-1.
    """

    metrics: dict[str, float]
    predicted: Tensor
    confidence: Tensor


def classification_report(
    logits: Tensor, labels: Tensor, config: ProbeConfig
) -> ClassificationReport:
    """Compute accuracies and calibration error with 95 % bootstrap intervals over images.

    Args:
        logits: finite, [N, K].
        labels: int64 [N].
        config: `bootstrap` and `bootstrap_seed`, the number of draws and their seed.
    """
    # Of equal logits argmax takes the first and topk may take any. Top-1 uses argmax, so that the
    # metric agrees with the predictions that are saved.
    predicted = logits.argmax(-1)
    probabilities = logits.float().softmax(-1)
    confidence = probabilities.gather(-1, predicted[:, None])[:, 0]
    top1_hits = predicted == labels
    hits = {"top1": top1_hits}
    if logits.shape[1] > 5:
        in_top5 = (logits.topk(5, dim=-1).indices == labels[:, None]).any(-1)
        # A top-1 hit is a top-5 hit, even if topk took others of several equal logits.
        hits["top5"] = top1_hits | in_top5

    accuracy_intervals, ece_interval = bootstrap_intervals(
        list(hits.values()), confidence, config.bootstrap, config.bootstrap_seed
    )
    metrics: dict[str, float] = {}
    for (name, is_hit), interval in zip(hits.items(), accuracy_intervals, strict=True):
        top_k_accuracy = 100 * is_hit.double().mean().item()
        metrics |= _with_interval(name, top_k_accuracy, interval)
    ece = expected_calibration_error(confidence, top1_hits)
    metrics |= _with_interval("ece", ece, ece_interval)
    return ClassificationReport(metrics, predicted, confidence)


def report_details(
    report: ClassificationReport, labels: Tensor, classes: int, config: ProbeConfig
) -> dict[str, Any]:
    """Return a classifier's entry of `evaluation.json`, made of JSON values only.

    Args:
        report: the classifier's report.
        labels: int64 [N].
        classes: number of classes.
        config: `bootstrap` and `bootstrap_seed`, the number of draws and their seed.

    Returns:
        The metrics and
            - `per_class`: `class`, `images`, `top1` (None without images), `low`, `high`
            - `confusion`: [true class, predicted class, images] of wrong predictions, most frequent
              first
            - `calibration`: `images`, mean `confidence` and `accuracy` of each non-empty bin

        Accuracies and confidences are in percent.
    """
    images, right = per_class(report.predicted, labels, classes)
    intervals = class_accuracy_intervals(images, right, config.bootstrap, config.bootstrap_seed)
    class_rows = []
    columns = zip(images.tolist(), right.tolist(), intervals, strict=True)
    for label, (image_count, hit_count, (low, high)) in enumerate(columns):
        top1 = 100 * hit_count / image_count if image_count else None
        class_rows.append(
            {"class": label, "images": image_count, "top1": top1, "low": low, "high": high}
        )
    return {
        **report.metrics,
        "per_class": class_rows,
        # JSON has no tuples.
        "confusion": [list(triple) for triple in confusions(report.predicted, labels)],
        "calibration": _calibration_rows(report.confidence, report.predicted == labels),
    }


def _with_interval(name: str, value: float, interval: Interval) -> dict[str, float]:
    low, high = interval
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _calibration_rows(confidence: Tensor, hits: Tensor) -> list[dict[str, float]]:
    """Return the calibration rows of `report_details`: confidence [N] in 0-1, hits bool [N]."""
    bin_indices = calibration_bins(confidence)
    rows = []
    for bin_index in torch.unique(bin_indices).tolist():
        in_bin = bin_indices == bin_index
        rows.append(
            {
                "images": int(in_bin.sum()),
                "confidence": 100 * confidence[in_bin].double().mean().item(),
                "accuracy": 100 * hits[in_bin].double().mean().item(),
            }
        )
    return rows

"""Report a classifier on test: numbers with their intervals, and the details behind them."""

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
        metrics: `top1`, `top5` (above 5 classes) and `ece`, each with `_low` and `_high`; percent.
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
        logits: [N, K].
        labels: int64 [N].
        config: number of draws and seed of the bootstrap.
    """
    # Of equal scores argmax takes the first, in the metric and in the predictions file alike.
    # Top-k may take any of them, so top-1 is computed from argmax.
    predicted = logits.argmax(-1)
    confidence = logits.float().softmax(-1).gather(-1, predicted[:, None])[:, 0]
    hits = {"top1": predicted == labels}
    if logits.shape[1] > 5:
        in_top5 = (logits.topk(5, dim=-1).indices == labels[:, None]).any(-1)
        hits["top5"] = hits["top1"] | in_top5
    accuracy_intervals, ece_interval = bootstrap_intervals(
        list(hits.values()), confidence, config.bootstrap, config.bootstrap_seed
    )
    metrics: dict[str, float] = {}
    for (name, right), interval in zip(hits.items(), accuracy_intervals, strict=True):
        metrics |= _with_interval(name, 100 * right.double().mean().item(), interval)
    ece = expected_calibration_error(confidence, hits["top1"])
    metrics |= _with_interval("ece", ece, ece_interval)
    return ClassificationReport(metrics, predicted, confidence)


def report_details(
    report: ClassificationReport, labels: Tensor, classes: int, config: ProbeConfig
) -> dict[str, Any]:
    """Return what is behind a report's metrics, as written to `evaluation.json`.

    Args:
        report: the report.
        labels: int64 [N].
        classes: number of classes.
        config: number of draws and seed of the bootstrap.

    Returns:
        JSON values only: the metrics, `per_class` accuracy, `confusion` and `calibration` by bin.
    """
    images, right = per_class(report.predicted, labels, classes)
    intervals = class_accuracy_intervals(images, right, config.bootstrap, config.bootstrap_seed)
    class_rows = []
    columns = zip(images.tolist(), right.tolist(), intervals, strict=True)
    for label, (count, hit_count, (low, high)) in enumerate(columns):
        top1 = 100 * hit_count / count if count else None
        class_rows.append({"class": label, "images": count, "top1": top1, "low": low, "high": high})
    return {
        **report.metrics,
        "per_class": class_rows,
        "confusion": [list(triple) for triple in confusions(report.predicted, labels)],
        "calibration": _calibration_rows(report.confidence, report.predicted == labels),
    }


def _with_interval(name: str, value: float, interval: Interval) -> dict[str, float]:
    low, high = interval
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _calibration_rows(confidence: Tensor, hits: Tensor) -> list[dict[str, float]]:
    """Return number of images, mean confidence and accuracy (percent) of each non-empty bin."""
    bin_indices = calibration_bins(confidence)
    rows = []
    for bin_index in torch.unique(bin_indices).tolist():
        inside = bin_indices == bin_index
        rows.append(
            {
                "images": int(inside.sum()),
                "confidence": 100 * confidence[inside].double().mean().item(),
                "accuracy": 100 * hits[inside].double().mean().item(),
            }
        )
    return rows

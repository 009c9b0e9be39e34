"""What is reported of a prediction over test: numbers with their intervals, and the details behind them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from beamclip.config import ProbeConfig
from beamclip.evaluation.bootstrap import class_intervals, intervals
from beamclip.evaluation.metrics import BINS, confusions, expected_calibration_error, per_class


@dataclass(frozen=True)
class Reported:
    """One classifier on test."""

    metrics: dict[str, float]
    """`top1`, `top5` above 5 classes, `ece`, each with `_low` and `_high`; per cent."""
    predicted: Tensor
    """int64 [N]."""
    confidence: Tensor
    """fp32 [N], 0-1: the predicted class's probability."""


def report(logits: Tensor, labels: Tensor, config: ProbeConfig) -> Reported:
    """Accuracies and calibration error with 95 % bootstrap intervals over images.

    Args:
        logits: [N, K].
        labels: int64 [N].
    """
    predicted = logits.argmax(
        -1
    )  # the first of equals, in the number as in the files; top-k takes any
    confidence = logits.float().softmax(-1).gather(-1, predicted[:, None])[:, 0]
    hits = {"top1": predicted == labels}
    if logits.shape[1] > 5:
        hits["top5"] = hits["top1"] | (logits.topk(5, dim=-1).indices == labels[:, None]).any(-1)
    tops, calibration = intervals(
        list(hits.values()), confidence, config.bootstrap, config.bootstrap_seed
    )
    metrics: dict[str, float] = {}
    for (name, right), interval in zip(hits.items(), tops, strict=True):
        metrics |= _with_interval(name, 100 * right.double().mean().item(), interval)
    metrics |= _with_interval(
        "ece", expected_calibration_error(confidence, hits["top1"]), calibration
    )
    return Reported(metrics, predicted, confidence)


def details_of(
    reported: Reported, labels: Tensor, classes: int, config: ProbeConfig
) -> dict[str, Any]:
    """Per-class accuracy, what was taken for what, and calibration bin by bin; JSON values only."""
    images, right = per_class(reported.predicted, labels, classes)
    spread = class_intervals(images, right, config.bootstrap, config.bootstrap_seed)
    per = zip(images.tolist(), right.tolist(), spread, strict=True)
    return {
        **reported.metrics,
        "per_class": [
            {
                "class": number,
                "images": n,
                "top1": 100 * hits / n if n else None,
                "low": low,
                "high": high,
            }
            for number, (n, hits, (low, high)) in enumerate(per)
        ],
        "confusion": [list(triple) for triple in confusions(reported.predicted, labels)],
        "calibration": _bins(reported.confidence, reported.predicted == labels),
    }


def _with_interval(name: str, value: float, interval: tuple[float, float]) -> dict[str, float]:
    return {name: value, f"{name}_low": interval[0], f"{name}_high": interval[1]}


def _bins(confidence: Tensor, hits: Tensor) -> list[dict[str, float]]:
    """The bins that hold images: mean confidence and accuracy in per cent."""
    place = (confidence.double() * BINS).ceil().long().clamp(1, BINS) - 1
    found = [(place == number) for number in torch.unique(place).tolist()]
    return [
        {
            "images": int(inside.sum()),
            "confidence": 100 * confidence[inside].double().mean().item(),
            "accuracy": 100 * hits[inside].double().mean().item(),
        }
        for inside in found
    ]

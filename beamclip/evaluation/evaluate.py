"""All probes of one student: what is chosen on val, then what is reported on test."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from beamclip.config import ProbeConfig
from beamclip.evaluation.features import LabelledFeatures
from beamclip.evaluation.knn import knn_predict
from beamclip.evaluation.linear_probe import ProbeResult, select_probe
from beamclip.evaluation.metrics import accuracy, wilson_interval
from beamclip.evaluation.probe import Probe
from beamclip.evaluation.zero_shot import zero_shot_predict


@dataclass(frozen=True)
class Evaluation:
    """A student's results."""

    metrics: dict[str, float]
    """Accuracies in per cent, and `linear_probe/inverse_l2`."""
    probe: Probe


def evaluate(
    train: LabelledFeatures, val: LabelledFeatures, test: LabelledFeatures, anchors: Tensor | None, config: ProbeConfig
) -> Evaluation:
    """Probe on frozen features; everything on the device the features are on.

    Args:
        train: what probe and kNN are fitted on, already cut to `config.train_images`.
        val: a held-out part of the train set; chooses C.
        test: reported once.
        anchors: [K, D] in label order, for zero-shot; None leaves it out.

    Returns:
        `linear_probe/{val_top1,test_top1,test_top1_low,test_top1_high,inverse_l2}`, `linear_probe/test_top5` above 5 classes,
        `knn/{val,test}_top1`, `zero_shot/{val,test}_top1`. `_low` and `_high` are the 95 % interval.

    Raises:
        UserError: features are not finite, fewer train images than k, or a single class.
    """
    with _full_precision():
        chosen = choose(train, val, config)  # test is not among its arguments: it can't bear on the choice
        metrics = {"linear_probe/val_top1": chosen.val_top1, "linear_probe/inverse_l2": chosen.inverse_l2}
        metrics |= _neighbours(train, val, anchors, config, "val")
        metrics |= report(chosen.probe, test) | _neighbours(train, test, anchors, config, "test")
    return Evaluation(metrics, chosen.probe)


def choose(train: LabelledFeatures, val: LabelledFeatures, config: ProbeConfig) -> ProbeResult:
    """Everything that is chosen: the probe and its C."""
    return select_probe(train, val, config.inverse_l2, config.max_iterations)


def report(probe: Probe, test: LabelledFeatures) -> dict[str, float]:
    """The chosen probe on test, with its 95 % interval over images."""
    logits = probe.logits(test.features)
    per_cent = accuracy(logits, test.labels)
    low, high = wilson_interval(per_cent, len(test.labels))
    metrics = {"linear_probe/test_top1": per_cent, "linear_probe/test_top1_low": low, "linear_probe/test_top1_high": high}
    if logits.shape[1] > 5:
        metrics["linear_probe/test_top5"] = accuracy(logits, test.labels, k=5)
    return metrics


def _neighbours(
    train: LabelledFeatures, part: LabelledFeatures, anchors: Tensor | None, config: ProbeConfig, name: str
) -> dict[str, float]:
    """The two that have nothing to choose: nearest train images and nearest anchors."""
    predicted = knn_predict(part.features, train.features, train.labels, config.knn_k, config.knn_temperature)
    metrics = {f"knn/{name}_top1": accuracy(predicted, part.labels)}
    if anchors is not None and part.embeddings is not None:
        nearest = zero_shot_predict(part.embeddings, anchors.to(part.embeddings.device))
        metrics[f"zero_shot/{name}_top1"] = accuracy(nearest, part.labels)
    return metrics


@contextmanager
def _full_precision() -> Iterator[None]:
    """Training may have allowed TF32, whose 10 bits move neighbours and stall L-BFGS."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

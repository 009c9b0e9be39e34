"""Evaluate one student with all probes, and save the results.

Everything that is chosen is chosen on val; test is only reported.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beamclip.config import ProbeConfig, UserError
from beamclip.evaluation.features import LabeledFeatures
from beamclip.evaluation.few_shot import FewShotResult, evaluate_few_shot
from beamclip.evaluation.knn import knn_predict
from beamclip.evaluation.linear_probe import Probe
from beamclip.evaluation.metrics import accuracy
from beamclip.evaluation.protocols import ProbeResult, select_probe
from beamclip.evaluation.report import (
    ClassificationReport,
    classification_report,
    report_details,
)
from beamclip.evaluation.zero_shot import zero_shot_logits, zero_shot_predict
from beamclip.students import write_tensors

FORMAT = "beamclip-evaluation-1"


@dataclass(frozen=True)
class Evaluation:
    """Results of a student.

    Attributes:
        metrics: percent, except `knn/k`.
        probe: the chosen linear probe.
        details: what is behind the metrics, JSON values only; see `save_evaluation`.
        predictions: columns over test in order, on the CPU; see `save_evaluation`.
    """

    metrics: dict[str, float]
    probe: Probe
    details: dict[str, Any] = field(default_factory=dict)
    predictions: dict[str, Tensor] = field(default_factory=dict)


def evaluate(
    train: LabeledFeatures,
    val: LabeledFeatures,
    test: LabeledFeatures,
    anchors: Tensor | None,
    config: ProbeConfig,
) -> Evaluation:
    """Evaluate frozen features with linear probe, k-NN, zero-shot and few-shot probes.

    Everything runs on the features' device.

    Args:
        train: images that probe and k-NN are fitted on, already reduced to `config.train_images`.
        val: a held-out part of the train set; chooses the probe's settings and k.
        test: reported once.
        anchors: text embeddings in the order of labels, [K, D]; None skips zero-shot.
        config: settings of all probes.

    Returns:
        The metrics are `linear_probe/val_top1`, `linear_probe/test_{top1,top5,ece}`, each with the
        `_low` and `_high` of its 95 % interval (top5 above 5 classes),
        `knn/{val_top1,test_top1,k}`, `zero_shot/val_top1` and `zero_shot/test_…` like the probe's,
        and `few_shot/N_top1` with its interval over draws.

    Raises:
        UserError: features are not finite, there are fewer train images than k, or a single class.
    """
    with _full_matmul_precision():
        selection = select_probe(train, val, config)
        k, knn_val_scores = select_k(train, val, config)

        probe_logits = selection.probe.logits(test.features)
        _check_converged(probe_logits, selection)
        probe_report = classification_report(probe_logits, test.labels, config)
        knn_predicted = knn_predict(
            test.features, train.features, train.labels, [k], config.knn_temperature
        )[0]

        metrics = {"linear_probe/val_top1": selection.val_top1}
        metrics |= _with_prefix("linear_probe/test_", probe_report.metrics)
        metrics["knn/val_top1"] = knn_val_scores[k]
        metrics["knn/test_top1"] = accuracy(knn_predicted, test.labels)
        metrics["knn/k"] = k

        zero_shot_report = None
        if anchors is not None and val.embeddings is not None and test.embeddings is not None:
            anchors = anchors.to(val.labels.device)
            val_predicted = zero_shot_predict(val.embeddings, anchors)
            metrics["zero_shot/val_top1"] = accuracy(val_predicted, val.labels)
            logits = zero_shot_logits(test.embeddings, anchors) / config.zero_shot_temperature
            zero_shot_report = classification_report(logits, test.labels, config)
            metrics |= _with_prefix("zero_shot/test_", zero_shot_report.metrics)

        few_shot_results = evaluate_few_shot(train, val, test, config)
        for result in few_shot_results:
            metrics |= _few_shot_metrics(result)

    classes = max(len(selection.probe.bias), int(test.labels.max()) + 1)
    zero_shot_details = None
    if zero_shot_report is not None:
        zero_shot_details = report_details(zero_shot_report, test.labels, classes, config)
    details = {
        "protocol": config.protocol,
        "cells": [asdict(candidate) for candidate in selection.candidates],
        "chosen": selection.chosen,
        "knn": [{"k": neighbors, "val_top1": top1} for neighbors, top1 in knn_val_scores.items()],
        "few_shot": [result.to_json() for result in few_shot_results],
        "linear_probe": report_details(probe_report, test.labels, classes, config),
        "zero_shot": zero_shot_details,
    }
    predictions = _predictions(probe_report, zero_shot_report, test)
    return Evaluation(metrics, selection.probe, details, predictions)


def select_k(
    train: LabeledFeatures, val: LabeledFeatures, config: ProbeConfig
) -> tuple[int, dict[int, float]]:
    """Choose the number of neighbors on val.

    Returns:
        The best k, the smaller on a tie, and the val accuracy of each k in percent.
    """
    ks = sorted(set(config.knn_k))
    predicted = knn_predict(val.features, train.features, train.labels, ks, config.knn_temperature)
    scores = {k: accuracy(row, val.labels) for k, row in zip(ks, predicted, strict=True)}
    return max(scores, key=scores.__getitem__), scores


def save_evaluation(evaluation: Evaluation, folder: Path, names: Sequence[str] = ()) -> None:
    """Write what is behind the metrics into an existing folder.

    `evaluation.json`: `protocol`; `cells`, the candidates with `settings` and `val_top1`; `chosen`,
    the index of the chosen one; `knn`; `few_shot`; `linear_probe` and `zero_shot` (null if there is
    none), each with `top1`, `top5`, `ece`, their `_low` and `_high`, `per_class` (`class`,
    `images`, `top1`, `low`, `high`), `confusion` as [true, predicted, images] of wrong predictions,
    and `calibration` by bin; `names`. Accuracies are in percent and over test, unless named val.

    `predictions.safetensors`: int64 `ids`, `labels`, `probe`, and `zero_shot` if there is one; fp32
    `probe_confidence` and `zero_shot_confidence`; all [N], over test in order.

    Args:
        evaluation: the results.
        folder: where the files are written.
        names: class names in the order of labels.

    Raises:
        UserError: a file can't be written.
    """
    content = {
        "format": FORMAT,
        "names": list(names),
        "metrics": evaluation.metrics,
        **evaluation.details,
    }
    path = folder / "evaluation.json"
    try:
        path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror}); free space or choose another storage"
        ) from None
    write_tensors(
        folder / "predictions.safetensors", evaluation.predictions, {"predictions_format": FORMAT}
    )


@contextmanager
def _full_matmul_precision() -> Iterator[None]:
    """Compute matrix products in full fp32 within the block.

    Training may have allowed TF32, whose 10 bits change neighbors and stall L-BFGS.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _check_converged(logits: Tensor, selection: ProbeResult) -> None:
    """Raise UserError if a logit of the chosen probe is not finite."""
    if bool(torch.isfinite(logits).all()):
        return
    settings = selection.candidates[selection.chosen].settings
    listed = ", ".join(f"{name} {value}" for name, value in settings.items())
    raise UserError(f"the linear probe diverged ({listed}); lower probe.grid.lr")


def _with_prefix(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in metrics.items()}


def _few_shot_metrics(result: FewShotResult) -> dict[str, float]:
    """Return mean and interval, without those that are None."""
    key = f"few_shot/{result.images_per_class}_top1"
    metrics = {key: result.mean, f"{key}_low": result.low, f"{key}_high": result.high}
    return {name: value for name, value in metrics.items() if value is not None}


def _predictions(
    probe: ClassificationReport, zero_shot: ClassificationReport | None, test: LabeledFeatures
) -> dict[str, Tensor]:
    """Return the columns of `predictions.safetensors`, on the CPU."""
    ids = torch.arange(len(test.labels)) if test.ids is None else test.ids
    columns = {
        "ids": ids,
        "labels": test.labels,
        "probe": probe.predicted,
        "probe_confidence": probe.confidence,
    }
    if zero_shot is not None:
        columns["zero_shot"] = zero_shot.predicted
        columns["zero_shot_confidence"] = zero_shot.confidence
    return {name: column.cpu().contiguous() for name, column in columns.items()}

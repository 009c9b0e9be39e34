"""Evaluate one student with all probes, and save the results.

All choices are made on val. Test is used only for the reported numbers.
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
    """Results of one student.

    Attributes:
        metrics: values by MLflow name, in percent except `knn/k`.
        probe: the chosen linear probe.
        details: content of `evaluation.json` besides the metrics, JSON values only; see
            `save_evaluation`.
        predictions: columns of `predictions.safetensors`, [N] over the test images in order, on the
            CPU; see `save_evaluation`.
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
        val: a held-out part of the train set; the probe's settings and k are chosen on it.
        test: images that the test metrics are computed on.
        anchors: text embeddings in the order of labels, [K, D]; None skips zero-shot.
        config: settings of all probes.

    Returns:
        The results. Their metrics are
            - `linear_probe/val_top1` and `linear_probe/test_{top1,top5,ece}`
            - `knn/{val_top1,test_top1,k}`
            - `zero_shot/val_top1` and `zero_shot/test_{top1,top5,ece}`, with anchors and embeddings
            - `few_shot/N_top1` for each N in `config.few_shot` that every class has images for

        `top5` exists for more than 5 classes. Each metric of `linear_probe/test_…`,
        `zero_shot/test_…` and `few_shot/…` also has its 95 % interval, as `NAME_low` and
        `NAME_high`.

    Raises:
        UserError: a feature is not finite, k is larger than the number of train images, train has
            only one class, or the probe diverged.
    """
    with _full_matmul_precision():
        # Choices, all of them on val.
        selection = select_probe(train, val, config)
        k, knn_val_top1 = select_k(train, val, config)

        # Linear probe and k-NN on test.
        probe_logits = selection.probe.logits(test.features)
        _check_converged(probe_logits, selection, config.protocol)
        probe_report = classification_report(probe_logits, test.labels, config)
        knn_predicted = knn_predict(
            test.features, train.features, train.labels, [k], config.knn_temperature
        )[0]

        metrics = {"linear_probe/val_top1": selection.val_top1}
        metrics |= _with_prefix("linear_probe/test_", probe_report.metrics)
        metrics["knn/val_top1"] = knn_val_top1[k]
        metrics["knn/test_top1"] = accuracy(knn_predicted, test.labels)
        metrics["knn/k"] = k

        zero_shot_report = None
        if anchors is not None and val.embeddings is not None and test.embeddings is not None:
            anchors = anchors.to(val.labels.device)
            val_predicted = zero_shot_predict(val.embeddings, anchors)
            metrics["zero_shot/val_top1"] = accuracy(val_predicted, val.labels)
            # The softmax of plain cosines is nearly uniform. The temperature changes no ranking,
            # but the confidences, and so the calibration error, depend on it.
            logits = zero_shot_logits(test.embeddings, anchors) / config.zero_shot_temperature
            zero_shot_report = classification_report(logits, test.labels, config)
            metrics |= _with_prefix("zero_shot/test_", zero_shot_report.metrics)

        few_shot_results = evaluate_few_shot(train, val, test, config)
        for result in few_shot_results:
            metrics |= _few_shot_metrics(result)

    # Test may have classes that train and val don't have, which the probe has no output for.
    classes = max(len(selection.probe.bias), int(test.labels.max()) + 1)
    zero_shot_details = None
    if zero_shot_report is not None:
        zero_shot_details = report_details(zero_shot_report, test.labels, classes, config)
    details = {
        "protocol": config.protocol,
        # Stored files keep the first name of candidates.
        "cells": [asdict(candidate) for candidate in selection.candidates],
        "chosen": selection.chosen,
        "knn": [{"k": neighbors, "val_top1": top1} for neighbors, top1 in knn_val_top1.items()],
        "few_shot": [result.to_json() for result in few_shot_results],
        "linear_probe": report_details(probe_report, test.labels, classes, config),
        "zero_shot": zero_shot_details,
    }
    predictions = _predictions(probe_report, zero_shot_report, test)
    return Evaluation(metrics, selection.probe, details, predictions)


def select_k(
    train: LabeledFeatures, val: LabeledFeatures, config: ProbeConfig
) -> tuple[int, dict[int, float]]:
    """Choose the number of neighbors of k-NN on val.

    Args:
        train: images that neighbors are searched in.
        val: images to choose k on.
        config: `knn_k`, the values to try, and `knn_temperature`.

    Returns:
        The best k (of equally good ones the smallest), and the top-1 accuracy on val of each k, in
        percent.

    Raises:
        UserError: a k is larger than the number of train images.
    """
    ks = sorted(set(config.knn_k))
    predicted = knn_predict(val.features, train.features, train.labels, ks, config.knn_temperature)
    val_top1 = {k: accuracy(row, val.labels) for k, row in zip(ks, predicted, strict=True)}
    # max returns the first of equal values, and the ks are in ascending order.
    return max(val_top1, key=val_top1.__getitem__), val_top1


def save_evaluation(evaluation: Evaluation, folder: Path, names: Sequence[str] = ()) -> None:
    """Write `evaluation.json` and `predictions.safetensors` into an existing folder.

    `evaluation.json` has these keys. Accuracies are in percent, and over test unless named `val`.
        - `format`, `names` (class names) and `metrics` (all metrics by name)
        - `protocol`: the protocol of the linear probe
        - `cells`: the candidates of the linear probe, with `settings` and `val_top1`
        - `chosen`: index of the chosen candidate
        - `knn`: `k` and `val_top1` of each k
        - `few_shot`: the fields of `FewShotResult` for each number of images per class
        - `linear_probe` and `zero_shot` (null if it was skipped): see `report.report_details`

    `predictions.safetensors` has one row per test image, in order: int64 `ids`, `labels`, `probe`
    and fp32 `probe_confidence`; with zero-shot also `zero_shot` and `zero_shot_confidence`.

    Args:
        evaluation: the results.
        folder: folder that the files are written into.
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
        # NaN is not JSON, and other programs would fail to read it.
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

    Training may have allowed TF32. With its 10-bit mantissa k-NN finds other neighbors, and
    L-BFGS stalls.
    """
    previous = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(previous)


def _check_converged(logits: Tensor, selection: ProbeResult, protocol: str) -> None:
    """Raise UserError if a logit of the chosen probe is not finite."""
    if bool(torch.isfinite(logits).all()):
        return
    chosen = selection.candidates[selection.chosen]
    settings = ", ".join(f"{name} {value}" for name, value in chosen.settings.items())
    advice = {"grid": "lower probe.grid.lr", "clip": "lower probe.inverse_l2"}.get(
        protocol, f"probe.protocol {protocol} has fixed settings; set probe.protocol to grid"
    )
    raise UserError(f"the linear probe diverged ({settings}); {advice}")


def _with_prefix(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in metrics.items()}


def _few_shot_metrics(result: FewShotResult) -> dict[str, float]:
    """Return the mean and the ends of its interval by metric name, leaving out None."""
    name = f"few_shot/{result.images_per_class}_top1"
    metrics = {name: result.mean, f"{name}_low": result.low, f"{name}_high": result.high}
    return {key: value for key, value in metrics.items() if value is not None}


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

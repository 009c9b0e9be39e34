"""The files that an evaluation leaves beside its probe."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beamclip.config import ProbeConfig, UserError
from beamclip.evaluation.features import LabelledFeatures
from beamclip.evaluation.few_shot import FewShot, few_shot
from beamclip.evaluation.knn import knn_predict
from beamclip.evaluation.linear_probe import Probe
from beamclip.evaluation.metrics import accuracy
from beamclip.evaluation.protocols import ProbeResult, select_probe
from beamclip.evaluation.report import Reported, details_of, report
from beamclip.evaluation.zero_shot import zero_shot_logits, zero_shot_predict
from beamclip.students import write_tensors

# All probes of one student: what is chosen on val, then what is reported on test.


@dataclass(frozen=True)
class Evaluation:
    """A student's results."""

    metrics: dict[str, float]
    """Per cent, and `knn/k`."""
    probe: Probe
    details: dict[str, Any] = field(default_factory=dict)
    """What lies behind the metrics, JSON values only; see `save_evaluation`."""
    predictions: dict[str, Tensor] = field(default_factory=dict)
    """Over test in order, on the CPU; see `save_evaluation`."""


def evaluate(
    train: LabelledFeatures,
    val: LabelledFeatures,
    test: LabelledFeatures,
    anchors: Tensor | None,
    config: ProbeConfig,
) -> Evaluation:
    """Probe on frozen features; everything on the device the features are on.

    Args:
        train: what probe and kNN are fitted on, already cut to `config.train_images`.
        val: a held-out part of the train set; chooses the probe's settings and k.
        test: reported once.
        anchors: [K, D] in label order, for zero-shot; None leaves it out.

    Returns:
        `linear_probe/val_top1`, `linear_probe/test_{top1,top5,ece}` each with `_low` and `_high`, its 95 % interval (top5 above 5
        classes), `knn/{val_top1,test_top1,k}`, `zero_shot/val_top1` and `zero_shot/test_…` like the probe's, and
        `few_shot/N_top1` with its interval over draws.

    Raises:
        UserError: features are not finite, fewer train images than k, or a single class.
    """
    with _full_precision():
        chosen, (k, neighbours) = (
            choose(train, val, config),
            choose_k(train, val, config),
        )  # test is not among their arguments
        probed = report(_numbers(chosen.probe.logits(test.features), chosen), test.labels, config)
        nearest = knn_predict(
            test.features, train.features, train.labels, [k], config.knn_temperature
        )[0]
        metrics = {"linear_probe/val_top1": chosen.val_top1} | _named("linear_probe/test_", probed)
        metrics |= {
            "knn/val_top1": neighbours[k],
            "knn/test_top1": accuracy(nearest, test.labels),
            "knn/k": k,
        }
        zero_shot = None
        if anchors is not None and val.embeddings is not None and test.embeddings is not None:
            metrics["zero_shot/val_top1"] = accuracy(
                zero_shot_predict(val.embeddings, anchors.to(val.labels.device)), val.labels
            )
            logits = (
                zero_shot_logits(test.embeddings, anchors.to(test.labels.device))
                / config.zero_shot_temperature
            )
            zero_shot = report(logits, test.labels, config)
            metrics |= _named("zero_shot/test_", zero_shot)
        shots = few_shot(train, val, test, config)
    metrics |= {key: value for one in shots for key, value in _few_shot_metrics(one).items()}
    details = _details(chosen, neighbours, shots, probed, zero_shot, test, config)
    return Evaluation(metrics, chosen.probe, details, _predictions(probed, zero_shot, test))


def _numbers(logits: Tensor, chosen: ProbeResult) -> Tensor:
    if not bool(torch.isfinite(logits).all()):
        settings = ", ".join(
            f"{name} {value}" for name, value in chosen.cells[chosen.chosen].settings.items()
        )
        raise UserError(f"the linear probe's weights ran away ({settings}); lower probe.grid.lr")
    return logits


def choose(train: LabelledFeatures, val: LabelledFeatures, config: ProbeConfig) -> ProbeResult:
    """The probe's settings by the protocol, and the probe that they give on train and val together."""
    return select_probe(train, val, config)


def choose_k(
    train: LabelledFeatures, val: LabelledFeatures, config: ProbeConfig
) -> tuple[int, dict[int, float]]:
    """The number of neighbours, the smaller on a tie, and the val accuracy of each in per cent."""
    ks = sorted(set(config.knn_k))
    predicted = knn_predict(val.features, train.features, train.labels, ks, config.knn_temperature)
    scores = {k: accuracy(row, val.labels) for k, row in zip(ks, predicted, strict=True)}
    return max(scores, key=scores.__getitem__), scores


def _named(prefix: str, reported: Reported) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in reported.metrics.items()}


def _few_shot_metrics(one: FewShot) -> dict[str, float]:
    values = {"": one.mean, "_low": one.low, "_high": one.high}
    return {
        f"few_shot/{one.images_per_class}_top1{suffix}": value
        for suffix, value in values.items()
        if value is not None
    }


def _details(
    chosen: ProbeResult,
    neighbours: dict[int, float],
    shots: list[FewShot],
    probed: Reported,
    zero_shot: Reported | None,
    test: LabelledFeatures,
    config: ProbeConfig,
) -> dict[str, Any]:
    classes = max(len(chosen.probe.bias), int(test.labels.max()) + 1)
    return {
        "protocol": config.protocol,
        "cells": [asdict(cell) for cell in chosen.cells],
        "chosen": chosen.chosen,
        "knn": [{"k": k, "val_top1": top1} for k, top1 in neighbours.items()],
        "few_shot": [one.as_dict() for one in shots],
        "linear_probe": details_of(probed, test.labels, classes, config),
        "zero_shot": None
        if zero_shot is None
        else details_of(zero_shot, test.labels, classes, config),
    }


def _predictions(
    probed: Reported, zero_shot: Reported | None, test: LabelledFeatures
) -> dict[str, Tensor]:
    ids = torch.arange(len(test.labels)) if test.ids is None else test.ids
    columns = {
        "ids": ids,
        "labels": test.labels,
        "probe": probed.predicted,
        "probe_confidence": probed.confidence,
    }
    if zero_shot is not None:
        columns |= {"zero_shot": zero_shot.predicted, "zero_shot_confidence": zero_shot.confidence}
    return {name: column.cpu().contiguous() for name, column in columns.items()}


@contextmanager
def _full_precision() -> Iterator[None]:
    """Training may have allowed TF32, whose 10 bits move neighbours and stall L-BFGS."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


FORMAT = "beamclip-evaluation-1"


def save_evaluation(evaluation: Evaluation, folder: Path, names: Sequence[str] = ()) -> None:
    """Write what lies behind the metrics into an existing folder.

    `evaluation.json`: `protocol`; `cells` with `settings` and `val_top1`, and `chosen`, the number of the chosen one; `knn`, `few_shot`;
    `linear_probe` and `zero_shot` (null where there is none), each with `top1`, `top5`, `ece`, their `_low` and `_high`, `per_class`
    (`class`, `images`, `top1`, `low`, `high`), `confusion` as [true, predicted, images] of what is wrong, and `calibration` by bin;
    `names`. Accuracies in per cent, over test unless they say val.
    `predictions.safetensors`: int64 `ids`, `labels`, `probe`, and `zero_shot` where there is one; fp32 `probe_confidence` and
    `zero_shot_confidence`; all [N], over test in order.

    Args:
        names: of the classes, in label order.

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

"""The evaluation of a student: metrics, details, what may influence the choice, and the files."""

import inspect
import json
import sys

import pytest
import torch
from safetensors.torch import load_file

from beamclip.config import GridConfig, ProbeConfig, UserError
from beamclip.evaluation import (
    Evaluation,
    LabeledFeatures,
    Probe,
    evaluate,
    expected_calibration_error,
    knn_predict,
    save_evaluation,
    select_k,
    select_probe,
)
from beamclip.evaluation.protocols import ProbeCandidate, ProbeResult

CONFIG = ProbeConfig(
    grid=GridConfig(lr=(0.3,), weight_decay=(1.0, 0.03, 0.0)), knn_k=(5, 3), bootstrap=200
)
PROBE = Probe(torch.ones(2, 3), torch.zeros(2), torch.zeros(3), torch.ones(3))


def part(seed, count=120, classes=7):
    """Return features with labels, and the anchors of the classes."""
    g = torch.Generator().manual_seed(99)
    centers = torch.randn(classes, 16, generator=g)
    anchors = torch.randn(classes, 8, generator=g)
    g.manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=g)
    embeddings = anchors[labels] + torch.randn(count, 8, generator=g)
    features = 0.6 * centers[labels] + torch.randn(count, 16, generator=g)
    return LabeledFeatures(features, embeddings, labels), anchors


@pytest.fixture
def parts():
    return part(1)[0], part(2)[0], part(3)[0]


def with_permuted_labels(data):
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(4))
    return LabeledFeatures(data.features, data.embeddings, data.labels[order])


def percent(hits):
    return 100 * hits.double().mean().item()


def test_the_metrics_are_those_of_the_single_classifiers(parts):
    train, val, test = parts
    anchors = part(1)[1]
    result = evaluate(*parts, anchors, CONFIG)
    on_test = {
        f"test_{name}{end}" for name in ("top1", "top5", "ece") for end in ("", "_low", "_high")
    }
    expected = {
        f"{classifier}/{name}"
        for classifier in ("linear_probe", "zero_shot")
        for name in ("val_top1", *on_test)
    }
    assert set(result.metrics) == expected | {"knn/val_top1", "knn/test_top1", "knn/k"}
    m = result.metrics
    for name, data in (("val", val), ("test", test)):
        cosines = torch.cosine_similarity(data.embeddings[:, None], anchors[None], dim=-1)
        assert m[f"zero_shot/{name}_top1"] == pytest.approx(
            percent(cosines.argmax(1) == data.labels)
        )
    probabilities = (cosines / CONFIG.zero_shot_temperature).softmax(1)
    hits = probabilities.argmax(1) == test.labels
    assert m["zero_shot/test_ece"] == pytest.approx(
        expected_calibration_error(probabilities.max(1).values, hits), abs=1e-3
    )
    logits = result.probe.logits(test.features)
    assert m["linear_probe/test_top1"] == pytest.approx(percent(logits.argmax(1) == test.labels))
    assert m["linear_probe/val_top1"] == select_probe(train, val, CONFIG).val_top1
    in_top5 = [
        int(label) in row
        for label, row in zip(test.labels, logits.topk(5).indices.tolist(), strict=True)
    ]
    assert m["linear_probe/test_top5"] == pytest.approx(percent(torch.tensor(in_top5)))
    for name in ("linear_probe/test_top1", "zero_shot/test_top1"):
        assert m[f"{name}_low"] < m[name] < m[f"{name}_high"]


def test_val_chooses_k_and_test_only_reports_it(parts):
    train, val, test = parts
    result = evaluate(*parts, None, CONFIG)
    scores = {}
    for k in (3, 5):
        predicted = knn_predict(
            val.features, train.features, train.labels, [k], CONFIG.knn_temperature
        )[0]
        scores[k] = pytest.approx(percent(predicted == val.labels))
    assert {row["k"]: row["val_top1"] for row in result.details["knn"]} == scores
    k = result.metrics["knn/k"]
    assert scores[k] == result.metrics["knn/val_top1"]
    assert scores[k] == max(row["val_top1"] for row in result.details["knn"])
    predicted = knn_predict(
        test.features, train.features, train.labels, [k], CONFIG.knn_temperature
    )[0]
    assert result.metrics["knn/test_top1"] == pytest.approx(percent(predicted == test.labels))


def test_the_details_add_up_to_the_metrics(parts):
    test = parts[2]
    result = evaluate(*parts, part(1)[1], CONFIG)
    details = result.details
    predicted = result.probe.predict(test.features)
    assert details["protocol"] == "grid" and len(details["cells"]) == 6
    chosen = details["cells"][details["chosen"]]
    assert chosen["val_top1"] == result.metrics["linear_probe/val_top1"]
    confused = sum(count for _, _, count in details["linear_probe"]["confusion"])
    assert confused == int((predicted != test.labels).sum())
    per_class = details["linear_probe"]["per_class"]
    assert [row["images"] for row in per_class] == test.labels.bincount().tolist()
    assert sum(row["images"] * row["top1"] for row in per_class) / 120 == pytest.approx(
        result.metrics["linear_probe/test_top1"]
    )
    assert details["zero_shot"]["ece"] == result.metrics["zero_shot/test_ece"]
    assert result.predictions["probe"].tolist() == predicted.tolist()
    assert result.predictions["ids"].tolist() == list(range(120))
    confidence = result.probe.logits(test.features).softmax(1).max(1).values
    torch.testing.assert_close(result.predictions["probe_confidence"], confidence)


def test_few_shot_probes_are_fitted_only_on_request(parts):
    assert evaluate(*parts, None, CONFIG).details["few_shot"] == []
    config = CONFIG.model_copy(update={"few_shot": (1, 8, 100), "few_shot_draws": 3})
    result = evaluate(*parts, None, config)
    shots = {row["images_per_class"]: row for row in result.details["few_shot"]}
    assert result.metrics["few_shot/8_top1"] == shots[8]["mean"]
    assert result.metrics["few_shot/8_top1"] > result.metrics["few_shot/1_top1"]
    assert "few_shot/100_top1" not in result.metrics and "a class has only" in shots[100]["note"]


def test_test_does_not_influence_the_choice(parts):
    train, val, test = parts
    right = evaluate(*parts, None, CONFIG)
    wrong = evaluate(train, val, with_permuted_labels(test), None, CONFIG)
    assert torch.equal(right.probe.weight, wrong.probe.weight)
    assert {k: v for k, v in right.metrics.items() if "test" not in k} == {
        k: v for k, v in wrong.metrics.items() if "test" not in k
    }
    assert wrong.metrics["linear_probe/test_top1"] < right.metrics["linear_probe/test_top1"] - 20
    for choice in (select_probe, select_k):
        assert "test" not in inspect.signature(choice).parameters


def test_val_does_influence_the_choice(parts):
    train, val, test = parts
    wrong = evaluate(train, with_permuted_labels(val), test, None, CONFIG)
    assert wrong.metrics["linear_probe/val_top1"] < 40
    assert evaluate(*parts, None, CONFIG).metrics["linear_probe/val_top1"] > 40


def test_metrics_that_do_not_apply_are_omitted():
    parts = [part(seed, classes=5)[0] for seed in (1, 2, 3)]
    metrics = evaluate(*parts, None, CONFIG).metrics
    assert "linear_probe/test_top5" not in metrics
    assert not any(k.startswith("zero_shot/") for k in metrics)
    assert evaluate(*parts, None, CONFIG).details["zero_shot"] is None


def test_more_neighbors_than_train_images_are_a_user_error(parts):
    with pytest.raises(UserError, match=r"probe\.knn_k is 500"):
        evaluate(*parts, None, CONFIG.model_copy(update={"knn_k": (5, 500)}))


def test_probes_run_in_full_fp32_and_the_global_setting_is_restored(parts, monkeypatch):
    precisions = []

    def recording_select_probe(*args):
        precisions.append(torch.get_float32_matmul_precision())
        return select_probe(*args)

    monkeypatch.setitem(evaluate.__globals__, "select_probe", recording_select_probe)
    torch.set_float32_matmul_precision("high")
    try:
        evaluate(*parts, None, CONFIG)
        assert precisions == ["highest"]
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.fixture
def evaluation():
    predictions = {
        "ids": torch.tensor([7, 9]),
        "labels": torch.tensor([0, 1]),
        "probe": torch.tensor([0, 0]),
        "probe_confidence": torch.tensor([0.9, 0.6]),
    }
    details = {"protocol": "grid", "cells": [], "zero_shot": None}
    return Evaluation({"linear_probe/test_top1": 50.0}, PROBE, details, predictions)


def test_saved_files_contain_metrics_details_and_predictions(evaluation, tmp_path):
    save_evaluation(evaluation, tmp_path, ("crane", "wren"))
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "evaluation.json",
        "predictions.safetensors",
    ]
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content == {
        "format": "beamclip-evaluation-1",
        "names": ["crane", "wren"],
        "metrics": {"linear_probe/test_top1": 50.0},
        "protocol": "grid",
        "cells": [],
        "zero_shot": None,
    }
    predictions = load_file(tmp_path / "predictions.safetensors")
    integers = {
        name: column.tolist() for name, column in predictions.items() if name != "probe_confidence"
    }
    assert integers == {"ids": [7, 9], "labels": [0, 1], "probe": [0, 0]}
    assert predictions["ids"].dtype == torch.int64
    assert predictions["probe_confidence"].dtype == torch.float32


def test_saving_into_a_missing_folder_is_a_user_error(evaluation, tmp_path):
    with pytest.raises(UserError, match=r"evaluation\.json can't be written \(No such file"):
        save_evaluation(evaluation, tmp_path / "missing")


@pytest.mark.parametrize(
    ("protocol", "advice"),
    [
        ("grid", "lower probe.grid.lr"),
        ("clip", "lower probe.inverse_l2"),
        ("seed", "probe.protocol seed has fixed settings; set probe.protocol to grid"),
    ],
)
def test_the_advice_for_a_probe_that_diverges_fits_its_protocol(
    parts, monkeypatch, protocol, advice
):
    width = parts[0].features.shape[1]
    diverged = Probe(
        torch.full((7, width), torch.nan), torch.zeros(7), torch.zeros(width), torch.ones(width)
    )
    result = ProbeResult(diverged, (ProbeCandidate({"lr": 9.0}, 14.0),), 0)
    # The package has a function of the module's name.
    module = sys.modules["beamclip.evaluation.evaluate"]
    monkeypatch.setattr(module, "select_probe", lambda *_: result)
    says = rf"^the linear probe diverged \(lr 9.0\); {advice}$"
    with pytest.raises(UserError, match=says):
        evaluate(*parts, None, ProbeConfig(protocol=protocol))

import inspect

import pytest
import torch

from beamclip.config import GridConfig, ProbeConfig, UserError
from beamclip.evaluation import (
    LabelledFeatures,
    choose,
    evaluate,
    expected_calibration_error,
    knn_predict,
)

CONFIG = ProbeConfig(
    grid=GridConfig(lr=(0.3,), weight_decay=(1.0, 0.03, 0.0)), knn_k=(5, 3), bootstrap=200
)


def part(seed, count=120, classes=7):
    g = torch.Generator().manual_seed(99)
    centres, anchors = torch.randn(classes, 16, generator=g), torch.randn(classes, 8, generator=g)
    g.manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=g)
    embeddings = anchors[labels] + torch.randn(count, 8, generator=g)
    return LabelledFeatures(
        0.6 * centres[labels] + torch.randn(count, 16, generator=g), embeddings, labels
    ), anchors


@pytest.fixture
def parts():
    return part(1)[0], part(2)[0], part(3)[0]


def permuted(data):
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(4))
    return LabelledFeatures(data.features, data.embeddings, data.labels[order])


def test_the_metrics_are_what_the_parts_say(parts):
    train, val, test = parts
    anchors = part(1)[1]
    result = evaluate(*parts, anchors, CONFIG)
    on_test = {
        f"test_{name}{end}" for name in ("top1", "top5", "ece") for end in ("", "_low", "_high")
    }
    expected = {
        f"{which}/{name}"
        for which in ("linear_probe", "zero_shot")
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
    assert m["linear_probe/val_top1"] == choose(train, val, CONFIG).val_top1
    among = [
        int(label) in row
        for label, row in zip(test.labels, logits.topk(5).indices.tolist(), strict=True)
    ]
    assert m["linear_probe/test_top5"] == pytest.approx(percent(torch.tensor(among)))
    for name in ("linear_probe/test_top1", "zero_shot/test_top1"):
        assert m[f"{name}_low"] < m[name] < m[f"{name}_high"]


def percent(hits):
    return 100 * hits.double().mean().item()


def test_val_chooses_k_and_test_is_asked_once(parts):
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
    assert (
        scores[k]
        == result.metrics["knn/val_top1"]
        == max(row["val_top1"] for row in result.details["knn"])
    )
    predicted = knn_predict(
        test.features, train.features, train.labels, [k], CONFIG.knn_temperature
    )[0]
    assert result.metrics["knn/test_top1"] == pytest.approx(percent(predicted == test.labels))


def test_the_details_hold_what_lies_behind_the_numbers(parts):
    test = parts[2]
    result = evaluate(*parts, part(1)[1], CONFIG)
    details, predicted = result.details, result.probe.predict(test.features)
    assert details["protocol"] == "grid" and len(details["cells"]) == 6
    assert (
        details["cells"][details["chosen"]]["val_top1"] == result.metrics["linear_probe/val_top1"]
    )
    assert sum(count for _, _, count in details["linear_probe"]["confusion"]) == int(
        (predicted != test.labels).sum()
    )
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


def test_few_images_are_tried_only_where_asked_for(parts):
    assert evaluate(*parts, None, CONFIG).details["few_shot"] == []
    asked = evaluate(
        *parts, None, CONFIG.model_copy(update={"few_shot": (1, 8, 100), "few_shot_draws": 3})
    )
    shots = {row["images_per_class"]: row for row in asked.details["few_shot"]}
    assert asked.metrics["few_shot/8_top1"] == shots[8]["mean"] > asked.metrics["few_shot/1_top1"]
    assert "few_shot/100_top1" not in asked.metrics and "a class has only" in shots[100]["note"]


def test_test_can_not_bear_on_the_choice(parts):
    train, val, test = parts
    honest, wrong = (
        evaluate(*parts, None, CONFIG),
        evaluate(train, val, permuted(test), None, CONFIG),
    )
    assert torch.equal(honest.probe.weight, wrong.probe.weight)
    assert {k: v for k, v in honest.metrics.items() if "test" not in k} == {
        k: v for k, v in wrong.metrics.items() if "test" not in k
    }
    assert wrong.metrics["linear_probe/test_top1"] < honest.metrics["linear_probe/test_top1"] - 20
    assert "test" not in inspect.signature(choose).parameters


def test_val_does_bear_on_the_choice(parts):
    train, val, test = parts
    noise = evaluate(train, permuted(val), test, None, CONFIG).metrics
    assert (
        noise["linear_probe/val_top1"]
        < 40
        < evaluate(*parts, None, CONFIG).metrics["linear_probe/val_top1"]
    )


def test_what_does_not_apply_is_left_out():
    few = [part(seed, classes=5)[0] for seed in (1, 2, 3)]
    metrics = evaluate(*few, None, CONFIG).metrics
    assert "linear_probe/test_top5" not in metrics
    assert not any(k.startswith("zero_shot/") for k in metrics)
    assert evaluate(*few, None, CONFIG).details["zero_shot"] is None


def test_too_few_images_for_the_neighbours_is_a_sentence(parts):
    with pytest.raises(UserError, match=r"probe\.knn_k is 500"):
        evaluate(*parts, None, CONFIG.model_copy(update={"knn_k": (5, 500)}))


def test_probing_is_in_full_fp32_and_leaves_the_setting_as_it_was(parts, monkeypatch):
    seen = []

    def watched(*args):
        seen.append(torch.get_float32_matmul_precision())
        return choose(*args)

    monkeypatch.setitem(evaluate.__globals__, "choose", watched)
    torch.set_float32_matmul_precision("high")
    try:
        evaluate(*parts, None, CONFIG)
        assert seen == ["highest"]
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")

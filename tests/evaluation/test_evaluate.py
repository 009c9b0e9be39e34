import inspect

import pytest
import torch

from beamclip.config import ProbeConfig, UserError
from beamclip.evaluation import LabelledFeatures, choose, evaluate, knn_predict

CONFIG = ProbeConfig(inverse_l2=(0.001, 0.1, 10.0), max_iterations=50, knn_k=5)


def part(seed, count=120, classes=7):
    g = torch.Generator().manual_seed(99)
    centres, anchors = torch.randn(classes, 16, generator=g), torch.randn(classes, 8, generator=g)
    g.manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=g)
    embeddings = anchors[labels] + torch.randn(count, 8, generator=g)
    return LabelledFeatures(0.6 * centres[labels] + torch.randn(count, 16, generator=g), embeddings, labels), anchors


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
    predicted = knn_predict(test.features, train.features, train.labels, 5, CONFIG.knn_temperature)
    cosines = torch.cosine_similarity(val.embeddings[:, None], anchors[None], dim=-1)
    assert set(result.metrics) == {
        "linear_probe/val_top1", "linear_probe/test_top1", "linear_probe/test_top5", "linear_probe/test_top1_low",
        "linear_probe/test_top1_high", "linear_probe/inverse_l2",
        "knn/val_top1", "knn/test_top1", "zero_shot/val_top1", "zero_shot/test_top1",
    }  # fmt: skip
    assert result.metrics["knn/test_top1"] == pytest.approx(100 * (predicted == test.labels).float().mean().item())
    assert result.metrics["zero_shot/val_top1"] == pytest.approx(100 * (cosines.argmax(1) == val.labels).float().mean().item())
    for name, data in (("val", val), ("test", test)):
        hits = result.probe.predict(data.features) == data.labels
        assert result.metrics[f"linear_probe/{name}_top1"] == pytest.approx(100 * hits.float().mean().item())
    m = result.metrics
    assert m["linear_probe/test_top1_low"] < m["linear_probe/test_top1"] < m["linear_probe/test_top1_high"]
    highest = result.probe.logits(test.features).argsort(dim=-1, descending=True)[:, :5]
    among = sum(int(label) in row for label, row in zip(test.labels, highest.tolist(), strict=True))
    assert m["linear_probe/test_top5"] == pytest.approx(100 * among / len(test.labels))


def test_test_can_not_bear_on_the_choice(parts):
    train, val, test = parts
    honest, wrong = evaluate(*parts, None, CONFIG), evaluate(train, val, permuted(test), None, CONFIG)
    assert torch.equal(honest.probe.weight, wrong.probe.weight)
    assert {k: v for k, v in honest.metrics.items() if "test" not in k} == {k: v for k, v in wrong.metrics.items() if "test" not in k}
    assert wrong.metrics["linear_probe/test_top1"] < honest.metrics["linear_probe/test_top1"] - 20
    assert "test" not in inspect.signature(choose).parameters


def test_val_does_bear_on_the_choice(parts):
    train, val, test = parts
    noise = evaluate(train, permuted(val), test, None, CONFIG).metrics
    assert noise["linear_probe/val_top1"] < 40 < evaluate(*parts, None, CONFIG).metrics["linear_probe/val_top1"]


def test_what_does_not_apply_is_left_out():
    few = [part(seed, classes=5)[0] for seed in (1, 2, 3)]
    metrics = evaluate(*few, None, CONFIG).metrics
    assert "linear_probe/test_top5" not in metrics
    assert not any(k.startswith("zero_shot/") for k in metrics)


def test_too_few_images_for_the_neighbours_is_a_sentence(parts):
    with pytest.raises(UserError, match=r"probe\.knn_k is 500"):
        evaluate(*parts, None, CONFIG.model_copy(update={"knn_k": 500}))


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

import math

import numpy as np
import pytest
import torch
from helpers.gloo import in_processes
from sklearn.metrics import accuracy_score, log_loss
from torch import nn

from beamclip.config import ObjectiveConfig, UserError
from beamclip.objectives import LossContext, LossInputs, build_objective
from beamclip.objectives.supervised import SupervisedSettings


def slow_cross_entropy(logits, labels, smoothing):
    """The equation written out, one image at a time, in Python floats."""
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        weights = [math.exp(value) for value in row]
        target = [(k == label) * (1 - smoothing) + smoothing / len(row) for k in range(len(row))]
        total -= sum(t * math.log(w / sum(weights)) for t, w in zip(target, weights, strict=True))
    return total / len(labels)


def built(features=6, classes=4, smoothing=0.0):
    torch.manual_seed(0)
    config = ObjectiveConfig(
        name="supervised", supervised=SupervisedSettings(label_smoothing=smoothing)
    )
    return build_objective(config, LossContext(features, 8, 100, classes))


def batch(count=10, features=6, classes=4, dtype=torch.float32):
    """Features and labels; the same whenever called."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, features, generator=generator, dtype=torch.float64).to(
        dtype
    ), torch.arange(count) % classes


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_the_equation_written_out(smoothing):
    objective, (features, labels) = built(smoothing=smoothing), batch()
    expected = slow_cross_entropy(
        objective.classifier(features).tolist(), labels.tolist(), smoothing
    )
    assert objective(LossInputs(10, features, labels=labels))["loss"].item() == pytest.approx(
        expected, rel=1e-5
    )


def test_equals_scikit_learn_s_log_loss_and_accuracy():
    objective, (features, labels) = built(), batch(200)
    out = objective(LossInputs(200, features, labels=labels))
    p = objective.classifier(features).softmax(-1).detach().numpy().astype(np.float64)
    assert out["loss"].item() == pytest.approx(
        log_loss(labels.numpy(), p / p.sum(1, keepdims=True), labels=range(4)), rel=1e-5
    )
    assert out["accuracy"].item() == pytest.approx(accuracy_score(labels.numpy(), p.argmax(1)))


def test_a_classifier_of_zeros_is_at_chance():
    objective, (features, labels) = built(classes=5, smoothing=0.2), batch(classes=5)
    nn.init.zeros_(objective.classifier.weight)
    nn.init.zeros_(objective.classifier.bias)
    assert objective(LossInputs(10, features, labels=labels))["loss"].item() == pytest.approx(
        math.log(5), rel=1e-6
    )


def test_all_views_of_an_image_have_its_label():
    objective, (features, labels) = built(), batch()
    first = objective(LossInputs(5, features[:5], labels=labels[:5]))
    second = objective(LossInputs(5, features[5:], labels=labels[:5]))
    both = objective(LossInputs(5, features, labels=labels[:5]))
    for name in ("loss", "accuracy"):
        assert both[name].item() == pytest.approx((first[name] + second[name]).item() / 2, rel=1e-5)


def test_the_gradient_is_the_derivative():
    objective, (features, labels) = built(smoothing=0.1).double(), batch(dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: objective(LossInputs(10, x, labels=labels))["loss"], features.requires_grad_()
    )


def test_bf16_features_and_autocast_leave_the_classifier_in_full_precision():
    objective, (features, labels) = built(), batch(64)
    full, half = (
        objective(LossInputs(64, x, labels=labels))["loss"] for x in (features, features.bfloat16())
    )
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(objective(LossInputs(64, features, labels=labels))["loss"], full)


def loss_and_gradient(rank, count):
    objective, (features, labels) = built(), batch(8)
    mine = slice(rank * 8 // count, (rank + 1) * 8 // count)
    network = nn.parallel.DistributedDataParallel(objective) if count > 1 else objective
    loss = network(LossInputs(8 // count, features[mine], labels=labels[mine]))["loss"]
    loss.backward()
    return loss.item(), objective.classifier.weight.grad


@pytest.mark.slow
def test_two_workers_with_half_a_batch_each_equal_one_with_the_whole_batch():
    loss, gradient = loss_and_gradient(0, 1)
    both = in_processes(2, loss_and_gradient)
    assert sum(one[0] for one in both) / 2 == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(both[0][1], gradient, rtol=1e-4, atol=1e-6)
    assert torch.equal(both[0][1], both[1][1])


def test_a_single_class_is_a_user_error():
    with pytest.raises(
        UserError, match="the training images have only one; give images of two classes or more"
    ):
        built(classes=1)

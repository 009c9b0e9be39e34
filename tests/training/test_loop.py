import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from beamclip.data.prefetch import Prefetcher
from beamclip.objectives import CrossModalSimilarityMatching
from beamclip.training.context import Context
from beamclip.training.dataloader import Batch
from beamclip.training.loop import HISTORY_POINTS, TrainState, train_epoch, train_step

CPU = torch.device("cpu")


class Matched(nn.Module):
    """The smallest network of the loop: a layer and an objective."""

    def __init__(self, layer, objective):
        super().__init__()
        self.layer, self.objective = layer, objective

    def forward(self, batch):
        return self.objective.match(self.layer(batch.images), *batch.teachers)


def new_train_state(lr=0.1, clip_norm=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer, anchors = nn.Linear(6, 8), torch.randn(5, 8)
    network = Matched(layer, CrossModalSimilarityMatching([anchors], [0.05], 0.05))
    optimizer = torch.optim.SGD(network.parameters(), lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    return TrainState(network, network.objective, optimizer, schedule, clip_norm)


def batch(number):
    generator = torch.Generator().manual_seed(int(number))
    return Batch(torch.randn(4, 6, generator=generator), (torch.randn(4, 8, generator=generator),))


def batches(count):
    return Prefetcher(iter(np.arange(count)), batch, CPU)


def losses_one_by_one(count):
    """The losses of the same steps, recorded one by one."""
    state = new_train_state()
    return [train_step(state, batch(number))["loss"].item() for number in range(count)]


def test_a_step_is_forward_backward_and_the_scheduled_update():
    state = new_train_state()
    before, lr = state.network.layer.weight.detach().clone(), 0.1
    loss = state.network(batch(0))["loss"]
    (gradient,) = torch.autograd.grad(loss, state.network.layer.weight)
    # Left over from an earlier step; must be cleared.
    state.network.layer.weight.grad = torch.full_like(before, 100.0)
    terms = train_step(state, batch(0))
    assert terms["loss"].item() == pytest.approx(loss.item())
    assert not any(term.requires_grad for term in terms.values())
    torch.testing.assert_close(state.network.layer.weight.detach(), before - lr * gradient)
    assert state.optimizer.param_groups[0]["lr"] == pytest.approx(lr / 2)


def test_an_epoch_s_metrics_are_means_and_rates():
    state = new_train_state()
    state.network.eval()
    result = train_epoch(state, batches(8), Context(), first_step=16)
    assert state.network.training
    rates = {
        "train/images_per_second",
        "train/images_per_second_per_device",
        "train/data_wait",
        "train/lr",
    }
    assert result.metrics.keys() == {"train/loss", "train/top1_agreement"} | rates
    assert result.metrics["train/loss"] == pytest.approx(np.mean(losses_one_by_one(8)), rel=1e-5)
    assert 0 <= result.metrics["train/top1_agreement"] <= 1
    assert result.metrics["train/lr"] == pytest.approx(0.1)
    assert (
        result.metrics["train/images_per_second"]
        == result.metrics["train/images_per_second_per_device"]
        > 0
    )
    assert 0 <= result.metrics["train/data_wait"] <= 100
    assert all(type(value) is float for value in result.metrics.values())


def test_a_short_epoch_s_curve_has_every_step():
    points = [
        point
        for point in train_epoch(new_train_state(), batches(8), Context(), first_step=16).history
        if point[0] == "train/loss"
    ]
    assert [step for _, _, step in points] == list(range(17, 25))
    assert [value for _, value, _ in points] == pytest.approx(losses_one_by_one(8), rel=1e-5)


def test_a_long_epoch_s_curve_has_means_over_several_steps():
    history = train_epoch(new_train_state(), batches(50), Context(), first_step=100).history
    points = [(step, value) for key, value, step in history if key == "train/loss"]
    assert len(points) == HISTORY_POINTS
    assert points[-1][0] == 150
    losses, start = losses_one_by_one(50), 0
    for step, value in points:
        assert value == pytest.approx(np.mean(losses[start : step - 100]), rel=1e-4)
        start = step - 100


def test_gradients_are_clipped_to_the_given_norm():
    def moved(clip_norm):
        state = new_train_state(lr=1.0, clip_norm=clip_norm)
        before = [p.detach().clone() for p in state.network.parameters()]
        train_step(state, batch(0))
        return (
            torch.cat(
                [(p - q).flatten() for p, q in zip(state.network.parameters(), before, strict=True)]
            )
            .norm()
            .item()
        )

    free = moved(None)
    assert free > 0.5
    assert moved(0.1) == pytest.approx(0.1, rel=1e-3)
    assert moved(100.0) == pytest.approx(free)


class CountReads(TorchDispatchMode):
    """Counts how often a number is read from a tensor: `.item()`, `float()`, `if tensor:`.

    On a GPU each of them waits for the device.
    """

    reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.reads += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def waits(monkeypatch, steps):
    """Count how often an epoch of so many steps waits for the device."""
    copies = []
    for name in ("cpu", "numpy", "tolist"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor,
            name,
            lambda self, *a, original=original, **k: copies.append(1) or original(self, *a, **k),
        )
    with CountReads() as count:
        train_epoch(new_train_state(clip_norm=0.1), batches(steps), Context(), first_step=0)
    monkeypatch.undo()
    return count.reads, len(copies)


def test_no_step_waits_for_the_device(monkeypatch):
    few, many = waits(monkeypatch, 20), waits(monkeypatch, 60)
    assert few == many
    # One copy per term, at the end of the epoch.
    assert many[1] == 2
    with CountReads() as count:
        torch.ones(2).sum().item()
        float(torch.ones(()))
        bool(torch.ones(()) > 0)
    assert count.reads == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_first_bad_step_is_found(bad):
    def bad_batch(number):
        spoiled = batch(number)
        if number in (3, 5):
            spoiled.images[0, 0] = bad
        return spoiled

    state = new_train_state(lr=1e-9)
    bad_batches = Prefetcher(iter(np.arange(8)), bad_batch, CPU)
    result = train_epoch(state, bad_batches, Context(), first_step=0)
    assert result.bad_step == 3
    assert train_epoch(new_train_state(), batches(8), Context(), first_step=0).bad_step is None

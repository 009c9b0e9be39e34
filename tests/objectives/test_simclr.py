import math

import pytest
import torch
from helpers.gloo import in_processes
from torch import nn

from beamclip.config import ObjectiveConfig
from beamclip.objectives import LossContext, LossInputs, build_objective
from beamclip.objectives.simclr import SimCLR, SimclrSettings, make_head, nt_xent


def slow_nt_xent(views, temperature):
    """The equation written out, one pair at a time. `views`: two lists of vectors."""

    def likeness(a, b):
        return math.exp(
            sum(map(math.prod, zip(a, b, strict=True)))
            / math.hypot(*a)
            / math.hypot(*b)
            / temperature
        )

    rows, count, total, right = [*views[0], *views[1]], len(views[0]), 0.0, 0
    for a in range(2 * count):
        others = {c: likeness(rows[a], rows[c]) for c in range(2 * count) if c != a}
        partner = (a + count) % (2 * count)
        total -= math.log(others[partner] / sum(others.values()))
        right += max(others, key=others.get) == partner
    return total / (2 * count), right / (2 * count)


def pairs(count=6, width=8, dtype=torch.float32, noise=1.0):
    """[2, count, width]: two noisy views of each image; the same whenever called."""
    generator = torch.Generator().manual_seed(0)
    image, apart = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((count, width), (2, count, width))
    )
    return (image + noise * apart).to(dtype)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.1])
def test_equals_the_equation_written_out(temperature):
    projected = pairs()
    out = nt_xent(projected, temperature)
    loss, accuracy = slow_nt_xent(projected.tolist(), temperature)
    assert out["loss"].item() == pytest.approx(loss, rel=1e-5)
    assert out["contrast_accuracy"].item() == pytest.approx(accuracy)
    assert 0 < accuracy < 1  # so that both kinds of errors can show


@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_equals_lightly_s_loss_and_gradient(temperature):
    lightly = pytest.importorskip(
        "lightly.loss", reason="lightly is not installed; it is in the test extra"
    )
    ours, theirs = (pairs(32, 16).requires_grad_() for _ in range(2))
    loss = nt_xent(ours, temperature)["loss"]
    expected = lightly.NTXentLoss(temperature)(theirs[0], theirs[1])
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def test_identical_orthogonal_pairs_in_closed_form():
    """One cosine of 1 and 2N - 2 of 0."""
    out = nt_xent(torch.eye(5).repeat(2, 1, 1), 0.5)
    assert out["loss"].item() == pytest.approx(math.log(1 + 8 * math.exp(-2)), rel=1e-6)
    assert out["contrast_accuracy"] == 1


def test_at_a_huge_temperature_the_loss_is_that_of_a_uniform_guess():
    assert nt_xent(pairs(7), 1e9)["loss"].item() == pytest.approx(math.log(2 * 7 - 1), rel=1e-6)


def test_collapsed_views_are_at_chance_and_the_length_does_not_matter():
    same = torch.ones(2, 9, 4) * torch.arange(1, 10)[:, None]
    assert nt_xent(same, 0.1)["loss"].item() == pytest.approx(math.log(17), rel=1e-5)


def test_the_order_of_views_does_not_matter():
    projected = pairs()
    assert nt_xent(projected.flip(0), 0.2)["loss"].item() == pytest.approx(
        nt_xent(projected, 0.2)["loss"].item(), rel=1e-6
    )


def test_the_gradient_is_the_derivative():
    projected = pairs(4, 5, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: nt_xent(x, 0.3)["loss"], projected)


def test_half_precision_is_compared_in_full_precision():
    projected = pairs(64, 128, noise=0.5)
    half = projected.bfloat16()
    assert torch.equal(nt_xent(half, 0.1)["loss"], nt_xent(half.float(), 0.1)["loss"])
    assert nt_xent(half, 0.1)["loss"].item() == pytest.approx(
        nt_xent(projected, 0.1)["loss"].item(), rel=0.01
    )


def built(features=12, **settings):
    torch.manual_seed(0)
    config = SimclrSettings(**{"hidden": 16, "width": 8} | settings)
    return build_objective(
        ObjectiveConfig(name="simclr", simclr=config), LossContext(features, 4, 100, 4)
    )


def test_views_are_identified_by_their_position():
    """Row v · B + i is view v of image i."""
    objective, features = built(temperature=0.2), pairs(6, 12).flatten(0, 1)
    projected = objective.head(features)
    loss, accuracy = slow_nt_xent([projected[:6].tolist(), projected[6:].tolist()], 0.2)
    out = objective(LossInputs(6, features))
    assert out["loss"].item() == pytest.approx(loss, rel=1e-4)
    assert out["contrast_accuracy"].item() == pytest.approx(accuracy)


def test_bf16_features_and_autocast_leave_the_head_in_full_precision():
    objective, features = built(), pairs(64, 12).flatten(0, 1)
    full = objective(LossInputs(64, features))["loss"]
    half = objective(LossInputs(64, features.bfloat16()))["loss"]
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        inside = objective(LossInputs(64, features))["loss"]
    assert torch.equal(inside, full)


@pytest.mark.parametrize(
    ("layers", "kinds"),
    [(2, "Linear Norm ReLU Linear Norm"), (3, "Linear Norm ReLU Linear Norm ReLU Linear Norm")],
)
def test_the_head_is_the_authors(layers, kinds):
    head = make_head(12, 16, 8, layers)
    assert [type(part).__name__.replace("BatchNorm1d", "Norm") for part in head] == kinds.split()
    assert all(part.bias is None for part in head if isinstance(part, nn.Linear))
    assert [part.bias.requires_grad for part in head if isinstance(part, nn.BatchNorm1d)] == [
        True
    ] * (layers - 1) + [False]
    assert head(torch.randn(4, 12)).shape == (4, 8)


def test_all_trained_parameters_get_a_gradient_and_the_loss_decreases():
    objective, features = built(layers=3, temperature=0.5), pairs(16, 12, noise=0.3).flatten(0, 1)
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = objective(LossInputs(16, features))["loss"]
        loss.backward()
        assert all((p.grad is not None) == p.requires_grad for p in objective.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert torch.equal(objective.head[-1].bias, torch.zeros(8))


def loss_and_gradient(rank, count):
    """A whole step on this worker's share of the batch.

    The head's batch statistics are fixed, so the number of workers does not matter.
    """
    objective, features = with_fixed_statistics(), pairs(8, 12)
    mine = features[:, rank * 8 // count : (rank + 1) * 8 // count].flatten(0, 1)
    network = nn.parallel.DistributedDataParallel(objective) if count > 1 else objective
    out = network(LossInputs(8 // count, mine))
    out["loss"].backward()
    return (
        out["loss"].item(),
        out["contrast_accuracy"].item(),
        [p.grad for p in objective.parameters() if p.requires_grad],
    )


def with_fixed_statistics():
    torch.manual_seed(0)
    return SimCLR(12, SimclrSettings(hidden=16, width=8, temperature=0.2)).eval()


def test_two_workers_with_half_a_batch_each_equal_one_with_the_whole_batch():
    loss, accuracy, gradients = loss_and_gradient(0, 1)
    both = in_processes(2, loss_and_gradient)
    assert both[0][0] != both[1][0]
    assert sum(one[0] for one in both) / 2 == pytest.approx(loss, rel=1e-5)
    assert sum(one[1] for one in both) / 2 == pytest.approx(accuracy)
    for mine, theirs, expected in zip(both[0][2], both[1][2], gradients, strict=True):
        assert torch.equal(mine, theirs)
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)


def test_without_the_other_worker_s_negatives_the_loss_differs():
    projected = pairs(8)
    halves = [
        nt_xent(projected[:, half], 0.2)["loss"].item() for half in (slice(0, 4), slice(4, 8))
    ]
    assert sum(halves) / 2 < nt_xent(projected, 0.2)["loss"].item() - 0.1

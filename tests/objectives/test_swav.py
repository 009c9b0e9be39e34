import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.gloo import in_processes
from torch import nn

from beamclip.config import ObjectiveConfig, UserError
from beamclip.objectives import LossContext, LossInputs, build_objective
from beamclip.objectives.swav import (
    SwAV,
    SwavSettings,
    prototype_usage,
    sinkhorn,
    swapped_prediction,
)


def slow_sinkhorn(scores, epsilon, iterations):
    """The algorithm as in the paper's appendix, in Python floats.

    Columns of Q are samples and rows are prototypes; all entries sum to 1.
    """
    q = [[math.exp(score / epsilon) for score in column] for column in zip(*scores, strict=True)]
    prototypes, samples = len(q), len(q[0])
    whole = sum(map(sum, q))
    q = [[value / whole for value in row] for row in q]
    for _ in range(iterations):
        q = [[value / sum(row) / prototypes for value in row] for row in q]
        sums = [sum(row[n] for row in q) for n in range(samples)]
        q = [[row[n] / sums[n] / samples for n in range(samples)] for row in q]
    return [[row[n] * samples for row in q] for n in range(samples)]


def slow_swav(scores, config, queue=None):
    """The loss written out, one pair of views and one image at a time.

    Shapes: scores [views][image][prototype], queue [2][image][prototype].
    """
    total = 0.0
    for large in range(2):
        codes = slow_sinkhorn(
            scores[large] + (queue[large] if queue else []),
            config.epsilon,
            config.sinkhorn_iterations,
        )
        others = [scores[view] for view in range(len(scores)) if view != large]
        for other in others:
            for row, code in zip(other, codes, strict=False):  # the queue's codes are dropped
                weights = [math.exp(value / config.temperature) for value in row]
                total -= (
                    sum(q * math.log(w / sum(weights)) for q, w in zip(code, weights, strict=True))
                    / len(other)
                    / len(others)
                )
    return total / 2


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def unit(*shape, **options):
    return F.normalize(random(*shape, **options), dim=-1)


def configuration(**settings):
    return SwavSettings(
        **{"prototypes": 7, "width": 5, "hidden": 16, "frozen_epochs": 0.0, "queue_from_epoch": 1.0}
        | settings
    )


def built(features=12, seed=0, **settings):
    torch.manual_seed(seed)
    return SwAV(features, configuration(**settings))


# Sinkhorn


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.05, 3), (0.5, 1), (0.1, 10)])
def test_codes_equal_the_algorithm_written_out(epsilon, iterations):
    scores = unit(9, 5) @ unit(4, 5, seed=1).T
    expected = torch.tensor(slow_sinkhorn(scores.tolist(), epsilon, iterations))
    torch.testing.assert_close(
        sinkhorn(scores, epsilon, iterations), expected, rtol=1e-3, atol=1e-6
    )


def test_codes_equal_lightly_s():
    lightly = pytest.importorskip(
        "lightly.loss.swav_loss", reason="lightly is not installed; it is in the test extra"
    )
    scores = unit(64, 16, dtype=torch.float64) @ unit(30, 16, seed=1, dtype=torch.float64).T
    torch.testing.assert_close(
        sinkhorn(scores, 0.05, 3), lightly.sinkhorn(scores, 3, 0.05), rtol=1e-9, atol=1e-12
    )


def test_codes_have_uniform_marginals():
    codes = sinkhorn(
        unit(60, 8, dtype=torch.float64) @ unit(6, 8, seed=1, dtype=torch.float64).T, 0.05, 500
    )
    torch.testing.assert_close(codes.sum(1), torch.ones(60, dtype=torch.float64))
    torch.testing.assert_close(
        codes.sum(0), torch.full((6,), 10.0, dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_after_three_iterations_samples_are_exact_and_prototypes_nearly_even():
    scores = unit(600, 8) @ unit(6, 8, seed=1).T
    codes = sinkhorn(scores, 0.05, 3)
    torch.testing.assert_close(codes.sum(1), torch.ones(600))
    spread = [float((p.sum(0) / 100 - 1).abs().max()) for p in (codes, (scores / 0.05).softmax(1))]
    assert spread[0] < 0.25 < 0.5 < spread[1]


def test_equal_samples_use_all_prototypes_equally():
    torch.testing.assert_close(sinkhorn(unit(1, 4).repeat(8, 1), 0.05, 3), torch.full((8, 4), 0.25))


def test_codes_are_finite_where_exponentials_would_overflow():
    scores = unit(16, 5) @ unit(7, 5, seed=1).T
    assert (scores / 0.001).exp().isinf().any()
    codes = sinkhorn(scores, 0.001, 3)
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(1), torch.ones(16))


def test_codes_of_half_precision_scores_are_computed_in_full_precision():
    scores = (unit(64, 16) @ unit(30, 16, seed=1).T).bfloat16()
    assert sinkhorn(scores, 0.05, 3).dtype == torch.float32
    assert torch.equal(sinkhorn(scores, 0.05, 3), sinkhorn(scores.float(), 0.05, 3))
    assert sinkhorn(scores.double(), 0.05, 3).dtype == torch.float64


# the loss


@pytest.mark.parametrize("small", [0, 3])
@pytest.mark.parametrize("queue", [0, 4])
def test_equals_the_equation_written_out(small, queue):
    objective, projected = built(queue=queue), unit(2 + small, 6, 5)
    earlier = unit(queue, 2, 5, seed=3)
    objective.queue.push(earlier.flatten(1))
    queued = (earlier.transpose(0, 1) @ objective.prototypes.T).tolist() if queue else None
    scores = (projected @ objective.prototypes.T).tolist()
    out = objective.compare(projected, epoch=1.0)
    assert out["loss"].item() == pytest.approx(
        slow_swav(scores, objective.settings, queued), rel=1e-4
    )


@pytest.mark.parametrize("small", [0, 4])
@pytest.mark.parametrize("queue", [0, 24])
def test_equals_lightly_s_loss_and_gradient(small, queue):
    lightly = pytest.importorskip(
        "lightly.loss", reason="lightly is not installed; it is in the test extra"
    )
    objective = built(queue=queue, prototypes=20, width=16, temperature=0.2)
    ours, theirs = (unit(2 + small, 8, 16).requires_grad_() for _ in range(2))
    earlier = unit(queue, 2, 16, seed=3)
    objective.queue.push(earlier.flatten(1))
    prototypes = objective.prototypes.detach().clone()
    scores = theirs @ prototypes.T
    queued = [earlier[:, view] @ prototypes.T for view in range(2)] if queue else None
    expected = lightly.SwaVLoss(0.2)(list(scores[:2]), list(scores[2:]), queued)
    loss = objective.compare(ours, epoch=1.0)["loss"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (mine,), (other,) = torch.autograd.grad(loss, ours), torch.autograd.grad(expected, theirs)
    torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-6)


def test_at_a_huge_temperature_the_loss_is_that_of_a_uniform_guess():
    objective = built(temperature=1e6)
    assert objective.compare(unit(4, 6, 5), 1.0)["loss"].item() == pytest.approx(
        math.log(7), rel=1e-5
    )


def test_views_that_equal_their_prototype_have_no_loss():
    """One orthogonal prototype per image, equal to all its views."""
    objective = built(width=7, temperature=0.02)
    objective.prototypes.data = torch.eye(7)
    out = objective.compare(torch.eye(7).repeat(4, 1, 1), 1.0)
    assert out["loss"].item() == pytest.approx(0, abs=1e-5)
    assert out["prototype_usage"].item() == pytest.approx(1)


def test_only_the_other_views_are_predicted():
    scores, codes = random(2, 6, 7), sinkhorn(random(12, 7), 0.5, 3).view(2, 6, 7)
    expected = F.cross_entropy(scores[1] / 0.3, codes[0]) + F.cross_entropy(
        scores[0] / 0.3, codes[1]
    )
    assert swapped_prediction(scores, codes, 0.3).item() == pytest.approx(
        expected.item() / 2, rel=1e-5
    )


def test_the_gradient_is_the_derivative():
    codes = sinkhorn(random(6, 5, dtype=torch.float64), 0.5, 3).view(2, 3, 5)
    views, prototypes = (
        unit(4, 3, 4, dtype=torch.float64).requires_grad_(),
        unit(5, 4, seed=1, dtype=torch.float64).requires_grad_(),
    )
    assert torch.autograd.gradcheck(
        lambda z, c: swapped_prediction(z @ c.T, codes, 0.2), (views, prototypes)
    )


def test_codes_have_no_gradient():
    objective, projected = built(), unit(2, 6, 5).requires_grad_()
    codes, usage = objective._codes(projected, 1.0)
    assert not codes.requires_grad
    assert not usage.requires_grad


def test_in_double_precision_loss_and_queue_are_double():
    objective = built(queue=4).double()
    out = objective(
        LossInputs(
            6,
            random(12, 12, dtype=torch.float64),
            crops=random(18, 12, seed=1, dtype=torch.float64),
        )
    )
    assert out["loss"].dtype == objective.queue.rows.dtype == torch.float64


def test_bf16_features_and_autocast_leave_the_head_in_full_precision():
    objective, features = built().eval(), random(128, 12)
    full, half = (objective(LossInputs(64, x))["loss"] for x in (features, features.bfloat16()))
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(objective(LossInputs(64, features))["loss"], full)


def test_large_views_and_small_crops_keep_their_order_in_the_head():
    objective, features, crops = built(), random(12, 12), random(18, 12, seed=1)
    twin = copy.deepcopy(objective)
    views = F.normalize(twin.head(torch.cat([features, crops])), dim=-1).unflatten(0, (5, 6))
    assert torch.equal(
        objective(LossInputs(6, features, crops=crops))["loss"], twin.compare(views, 0.0)["loss"]
    )


# prototypes


def trained(objective, epochs, optimizer, steps=3):
    for step in range(steps):
        for epoch in epochs:
            optimizer.zero_grad()
            objective(LossInputs(8, random(16, 12, seed=step), epoch=epoch))["loss"].backward()
            objective.after_backward()
            optimizer.step()
    return F.normalize(objective.prototypes.detach(), dim=-1)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_frozen_prototypes_do_not_change_despite_weight_decay(optimizer):
    objective = built(frozen_epochs=1.5)
    drawn, head = objective.prototypes.detach().clone(), objective.head[0].weight.detach().clone()
    moves = getattr(torch.optim, optimizer)(objective.parameters(), lr=0.1, weight_decay=0.1)
    torch.testing.assert_close(
        trained(objective, [0.0, 1.0, 1.49], moves), drawn, rtol=0, atol=1e-6
    )
    assert objective.prototypes not in moves.state
    assert not torch.equal(objective.head[0].weight, head)
    assert (trained(objective, [1.5], moves) - drawn).abs().max() > 1e-3


def test_ddp_is_given_a_gradient_of_zero_and_the_optimizer_none():
    objective = built(frozen_epochs=1.0)
    for epoch, frozen in ((0.5, True), (1.0, False)):
        objective.zero_grad()
        objective(LossInputs(8, random(16, 12), epoch=epoch))["loss"].backward()
        assert torch.equal(objective.prototypes.grad, torch.zeros(7, 5)) == frozen
        objective.after_backward()
        assert (objective.prototypes.grad is None) == frozen


def test_adam_s_first_steps_after_freezing_are_not_longer():
    """With zero gradients in Adam's averages, the first steps would be three times as long.

    Later steps would be even longer.
    """
    steps = {}
    for frozen in (0, 50):
        objective = built(frozen_epochs=1.0)
        moves = torch.optim.Adam([objective.prototypes], lr=0.01)
        trained(objective, [0.0] * frozen, moves, steps=1)
        with torch.no_grad():
            objective.prototypes.copy_(F.normalize(objective.prototypes, dim=-1))
        before = objective.prototypes.detach().clone()
        trained(objective, [1.0], moves, steps=1)
        steps[frozen] = (objective.prototypes.detach() - before).abs().max().item()
    assert steps[50] == pytest.approx(steps[0], rel=1e-3) == pytest.approx(0.01, rel=1e-3)


def test_prototypes_have_unit_length_at_every_step():
    objective, views = built(), unit(2, 6, 5)
    expected = objective.compare(views, 1.0)["loss"]
    objective.prototypes.data *= torch.arange(1, 8)[:, None]
    assert objective.compare(views, 1.0)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(objective.prototypes.norm(dim=-1), torch.ones(7))


def test_usage_is_the_share_of_prototypes_that_are_nearest_to_some_sample():
    assert prototype_usage(torch.eye(4).repeat(3, 1)).item() == pytest.approx(1)
    assert prototype_usage(torch.eye(4)[:2].repeat(3, 1)).item() == pytest.approx(0.5)
    assert prototype_usage(torch.eye(8)[:2]).item() == pytest.approx(
        1
    )  # two rows can use no more than two
    p = [3 / 4, 1 / 4]
    skewed = prototype_usage(torch.eye(2)[[0, 0, 0, 1]]).item()
    assert skewed == pytest.approx(math.exp(-sum(x * math.log(x) for x in p)) / 2)


def test_usage_shows_a_collapse_that_codes_hide():
    objective = built()
    alike = unit(1, 1, 5).repeat(2, 14, 1)
    codes, usage = objective._codes(alike, 1.0)
    torch.testing.assert_close(codes.mean((0, 1)), torch.full((7,), 1 / 7))
    assert usage.item() == pytest.approx(1 / 7)


# the queue


def test_the_queue_is_filled_from_the_start_but_used_only_later():
    with_queue, without = built(queue=12), built()
    views = [unit(2, 6, 5, seed=step) for step in range(4)]
    early = [
        with_queue.compare(view, epoch)["loss"]
        for view, epoch in zip(views[:3], (0.0, 0.5, 0.99), strict=True)
    ]
    assert early == [without.compare(view, 0.0)["loss"] for view in views[:3]]
    expected = (
        torch.cat([views[2], views[1]], dim=1).transpose(0, 1).flatten(1)
    )  # full, newest first
    assert torch.equal(with_queue.queue.rows, expected)
    loss = with_queue.compare(views[3], 1.0)["loss"]
    assert loss.isfinite()
    assert loss != without.compare(views[3], 1.0)["loss"]


def test_a_queue_that_is_not_yet_full_is_not_used():
    with_queue, without = built(queue=100, queue_from_epoch=0.0), built()
    for step in range(16):
        view = unit(2, 6, 5, seed=step)
        assert with_queue.compare(view, 5.0)["loss"] == without.compare(view, 5.0)["loss"]
    assert len(with_queue.queue.rows) == 96
    with_queue.compare(view, 5.0)
    assert len(with_queue.queue.rows) == 100  # not a multiple of the batch
    assert with_queue.compare(view, 5.0)["loss"] != without.compare(view, 5.0)["loss"]


def test_the_loss_does_not_jump_when_the_queue_starts():
    """Earlier embeddings improve the codes but hardly change the loss.

    A queue of zeros would change it by much more.
    """
    images, losses = unit(40, 1, 5, seed=9), []
    objective = built(queue=32)
    for step in range(12):
        chosen = images[torch.randperm(40, generator=torch.Generator().manual_seed(step))[:16]]
        views = F.normalize(chosen.transpose(0, 1) + 0.2 * random(2, 16, 5, seed=step), dim=-1)
        losses.append(objective.compare(views, step / 6)["loss"].item())
    before, after = torch.tensor(losses[:6]), torch.tensor(losses[6:])
    assert all(map(math.isfinite, losses))
    assert abs(before.mean() - after.mean()) < 0.1 * before.mean()


def test_the_queue_grows_only_in_training():
    objective = built(queue=12).eval()
    objective.compare(unit(2, 6, 5), 0.0)
    assert len(objective.queue.rows) == 0


def test_the_queue_is_in_the_checkpoint(tmp_path):
    first = built(queue=10)
    for step in range(2):
        first.compare(unit(2, 6, 5, seed=step), 0.0)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = built(seed=1, queue=10)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(second.queue.rows, first.queue.rows)
    assert (
        second.compare(unit(2, 6, 5, seed=2), 1.0)["loss"]
        == first.compare(unit(2, 6, 5, seed=2), 1.0)["loss"]
    )


def test_a_queue_longer_than_the_data_is_a_user_error():
    config = ObjectiveConfig(name="swav", swav=configuration(queue=101))
    with pytest.raises(
        UserError,
        match=(
            r"objective.swav.queue is 101, but there are 100 training images; "
            r"give 100 or fewer, or 0 for none"
        ),
    ):
        build_objective(config, LossContext(12, 4, 100, 4))
    assert build_objective(config, LossContext(12, 4, 101, 4)).settings.queue == 101


# several workers


def some_steps(rank, count):
    """Steps on this worker's share of the batch.

    The head's batch statistics are fixed, so the number of workers does not matter.
    In the first step prototypes are frozen; the last steps use the queue.
    Returns loss, usage and gradients of each step, and the queue.
    """
    objective = built(queue=20, frozen_epochs=0.5)
    objective.head[1].eval()
    network = (
        nn.parallel.DistributedDataParallel(ignoring_queue(objective)) if count > 1 else objective
    )
    mine, told = slice(rank * 8 // count, (rank + 1) * 8 // count), []
    for step in range(5):
        large, small = random(2, 8, 12, seed=step), random(3, 8, 12, seed=100 + step)
        objective.zero_grad()
        out = network(
            LossInputs(
                8 // count,
                large[:, mine].flatten(0, 1),
                crops=small[:, mine].flatten(0, 1),
                epoch=step / 3,
            )
        )
        out["loss"].backward()
        told.append(
            (
                out["loss"].item(),
                out["prototype_usage"].item(),
                [p.grad.clone() for p in objective.parameters()],
            )
        )
    return told, objective.queue.rows


def ignoring_queue(objective):
    """DDP as in training: equal buffers are not broadcast."""
    names = [name for name, _ in objective.named_buffers()]
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
        objective, names
    )
    return objective


def test_two_workers_with_half_a_batch_each_equal_one_with_the_whole_batch():
    alone, queue = some_steps(0, 1)
    (first, first_queue), (second, second_queue) = in_processes(2, some_steps)
    for expected, one, other in zip(alone, first, second, strict=True):
        assert one[0] != other[0]
        assert (one[0] + other[0]) / 2 == pytest.approx(expected[0], rel=1e-4)
        assert one[1] == other[1] == pytest.approx(expected[1])
        for mine, theirs, gradient in zip(one[2], other[2], expected[2], strict=True):
            assert torch.equal(mine, theirs)
            torch.testing.assert_close(mine, gradient, rtol=1e-3, atol=1e-5)
    assert torch.equal(first_queue, second_queue)
    assert len(queue) == 20
    torch.testing.assert_close(first_queue, queue)

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.gloo import in_processes
from torch import nn

from beamclip.config import ObjectiveConfig
from beamclip.objectives import (
    CrossModalSimilarityMatching,
    LossContext,
    LossInputs,
    build_objective,
    similarity_logits,
)


def slow_csm(student, teacher, anchors, tau_t, tau_s):
    """The equation written out, one image and one class at a time, in Python floats."""

    def distribution(x, tau):
        cosines = [
            sum(map(math.prod, zip(x, a, strict=True))) / math.hypot(*x) / math.hypot(*a) / tau
            for a in anchors.tolist()
        ]
        weights = [math.exp(c - max(cosines)) for c in cosines]
        return [w / sum(weights) for w in weights]

    total, agreements = 0.0, 0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = distribution(t, tau_t), distribution(s, tau_s)
        total += sum(
            pk * (math.log(pk) - math.log(qk)) for pk, qk in zip(p, q, strict=True) if pk > 0
        )
        agreements += p.index(max(p)) == q.index(max(q))
    return total / len(student), agreements / len(student)


def tensors(batch=5, width=16, classes=7, dtype=torch.float32):
    """student, teacher, anchors; the same whenever called."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(rows, width, generator=generator, dtype=torch.float64).to(dtype)
        for rows in (batch, batch, classes)
    ]


@pytest.mark.parametrize(("tau_t", "tau_s"), [(1.0, 1.0), (0.1, 0.2), (0.05, 0.02)])
def test_equals_the_equation_written_out(tau_t, tau_s):
    student, teacher, anchors = tensors()
    out = CrossModalSimilarityMatching([anchors], [tau_t], tau_s).match(student, teacher)
    loss, agreement = slow_csm(student, teacher, anchors, tau_t, tau_s)
    assert out["loss"].item() == pytest.approx(loss, rel=1e-4)
    assert out["top1_agreement"].item() == pytest.approx(agreement)


def test_teacher_and_student_temperatures_are_not_swapped():
    student, teacher, anchors = tensors()
    built = build_objective(
        ObjectiveConfig(teacher_temperature=0.1, student_temperature=0.3), material([anchors])
    )
    assert built.match(student, teacher)["loss"].item() == pytest.approx(
        slow_csm(student, teacher, anchors, 0.1, 0.3)[0], rel=1e-4
    )


def material(anchors, temperatures=()):
    return LossContext(8, 16, 100, 7, anchors, temperatures)


def others(count=2, width=9):
    """Embeddings of the same five images and anchors of the same seven classes.

    They are from teachers of different widths.
    """
    generator = torch.Generator().manual_seed(1)
    widths = range(width, width + count)
    return [
        (torch.randn(5, w, generator=generator), torch.randn(7, w, generator=generator))
        for w in widths
    ]


def test_the_target_of_several_teachers_is_the_mean_of_their_probabilities():
    student, teacher, anchors = tensors()
    (second, second_anchors), (third, third_anchors) = others()
    objective = CrossModalSimilarityMatching(
        [anchors, second_anchors, third_anchors], [0.1, 0.5, 0.02], 0.2
    )
    said = zip((teacher, second, third), objective.anchors, (0.1, 0.5, 0.02), strict=True)
    mean = torch.stack([similarity_logits(*one).softmax(-1) for one in said]).mean(0)
    log_q = similarity_logits(student, anchors, 0.2).log_softmax(
        -1
    )  # the student matches the first one's anchors
    expected = (mean * (mean.log() - log_q)).sum(-1).mean()
    out = objective.match(student, teacher, second, third)
    assert out["loss"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert out["top1_agreement"].item() == pytest.approx(
        (mean.argmax(-1) == log_q.argmax(-1)).float().mean().item()
    )


def test_a_second_teacher_without_a_temperature_uses_the_configured_one():
    student, teacher, anchors = tensors()
    ((second, second_anchors),) = others(1)
    config = ObjectiveConfig(teacher_temperature=0.1, student_temperature=0.3)
    built = build_objective(config, material([anchors, second_anchors], [None, 0.02]))
    assert built.teacher_temperatures == (0.1, 0.02)
    plain = CrossModalSimilarityMatching([anchors, second_anchors], [0.1, 0.02], 0.3)
    assert torch.equal(
        built.match(student, teacher, second)["loss"], plain.match(student, teacher, second)["loss"]
    )


def test_all_views_are_compared():
    student, teacher, anchors = tensors()
    objective = CrossModalSimilarityMatching([anchors], [0.1], 0.2)
    seen = LossInputs(5, torch.empty(10, 8), student.repeat(2, 1), teachers=(teacher.repeat(2, 1),))
    torch.testing.assert_close(objective(seen)["loss"], objective.match(student, teacher)["loss"])


def test_a_perfect_student_has_no_loss_and_no_gradient():
    _, teacher, anchors = tensors()
    student = (3.0 * teacher).requires_grad_()  # length does not matter, only direction
    out = CrossModalSimilarityMatching([anchors], [0.1], 0.1).match(student, teacher)
    out["loss"].backward()
    assert out["loss"].item() == pytest.approx(0.0, abs=1e-6)
    assert student.grad.abs().max() < 1e-6
    assert out["top1_agreement"] == 1.0


def test_at_a_huge_teacher_temperature_the_target_is_uniform():
    student, teacher, anchors = tensors(dtype=torch.float64)
    loss = CrossModalSimilarityMatching([anchors], [1e9], 0.1).match(student, teacher)["loss"]
    log_q = (F.cosine_similarity(student[:, None], anchors, dim=-1) / 0.1).log_softmax(-1)
    assert loss.item() == pytest.approx((-math.log(7) - log_q.mean(-1)).mean().item(), rel=1e-6)


def test_the_gradient_is_the_derivative():
    student, teacher, anchors = tensors(batch=3, width=4, classes=5, dtype=torch.float64)
    objective = CrossModalSimilarityMatching([anchors], [0.2], 0.3)
    assert torch.autograd.gradcheck(
        lambda x: objective.match(x, teacher)["loss"], student.requires_grad_()
    )


def test_the_gradient_is_that_of_the_cross_entropy():
    student, teacher, anchors = tensors()
    student.requires_grad_()
    (ours,) = torch.autograd.grad(
        CrossModalSimilarityMatching([anchors], [0.1], 0.2).match(student, teacher)["loss"], student
    )
    p = (F.cosine_similarity(teacher[:, None], anchors, dim=-1) / 0.1).softmax(-1)
    logits = F.cosine_similarity(student[:, None], anchors, dim=-1) / 0.2
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, p), student)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_teacher_and_anchors_get_no_gradient_and_nothing_is_saved():
    student, teacher, anchors = (x.requires_grad_() for x in tensors())
    objective = CrossModalSimilarityMatching([anchors.detach()], [0.1], 0.1)
    objective.match(student, teacher)["loss"].backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert objective.anchors[0].grad is None
    assert list(objective.parameters()) == []
    assert objective.state_dict() == {}


def test_half_precision_embeddings_are_compared_in_full_precision():
    student, teacher, anchors = tensors(64, 512, 1000)
    half = [x.bfloat16() for x in (student, teacher)]
    logits = similarity_logits(half[0], anchors.bfloat16(), 0.01)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, similarity_logits(half[0].float(), anchors.bfloat16().float(), 0.01))
    objective = CrossModalSimilarityMatching([anchors], [0.05], 0.05)
    assert objective.match(*half)["loss"].item() == pytest.approx(
        objective.match(student, teacher)["loss"].item(), rel=0.01
    )


def test_autocast_does_not_change_the_result():
    student, teacher, anchors = tensors(64, 128, 100)
    objective = CrossModalSimilarityMatching([anchors], [0.05], 0.05)
    outside = objective.match(student, teacher)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        assert (student @ anchors.T).dtype == torch.bfloat16  # autocast is on
        inside = objective.match(student, teacher)["loss"]
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


def linear(width=16):
    layer = nn.Linear(width, width)
    layer.load_state_dict(
        {"weight": torch.eye(width).roll(1, 0), "bias": torch.linspace(-1, 1, width)}
    )
    return layer


def loss_and_gradient(rank, count):
    student, teacher, anchors = tensors(batch=8)
    mine = slice(rank * 8 // count, (rank + 1) * 8 // count)
    network = nn.parallel.DistributedDataParallel(linear()) if count > 1 else linear()
    loss = CrossModalSimilarityMatching([anchors], [0.1], 0.2).match(
        network(student[mine]), teacher[mine]
    )["loss"]
    loss.backward()
    return loss.item(), next(network.parameters()).grad


@pytest.mark.slow
def test_two_workers_with_half_a_batch_each_equal_one_with_the_whole_batch():
    loss, gradient = loss_and_gradient(0, 1)
    (loss_a, gradient_a), (loss_b, gradient_b) = in_processes(2, loss_and_gradient)
    assert loss_a != loss_b
    assert (loss_a + loss_b) / 2 == pytest.approx(loss, rel=1e-5)
    assert torch.equal(gradient_a, gradient_b)
    torch.testing.assert_close(gradient_a, gradient, rtol=1e-4, atol=1e-6)

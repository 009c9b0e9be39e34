import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers.distilling import (
    check_gradient,
    check_precision,
    check_two_workers,
    cosine,
    distribution,
    embeddings,
    share,
)

from beamclip.config import ObjectiveConfig
from beamclip.objectives import LossContext, LossInputs, build_objective
from beamclip.objectives.seed import Seed


def slow_seed(student, teacher, queue, tau_t, tau_s):
    """One image at a time."""
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        columns = [t, *queue.tolist()]
        p = distribution([cosine(t, c) / tau_t for c in columns])
        q = distribution([cosine(s, c) / tau_s for c in columns])
        total -= sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    return torch.tensor(total / len(student))


def filled(tau_t=0.1, tau_s=0.2, length=20):
    """After two steps."""
    objective = Seed(length, 16, tau_t, tau_s)
    for step in range(2):
        objective(share(0, 1, step))
    return objective


def test_equals_the_equation_written_out_over_the_queue_before_the_batch():
    objective = filled(length=12)
    queue = torch.cat([embeddings(seed=1)[1], embeddings(seed=0)[1][:4]])
    student, teacher = embeddings(seed=2)
    torch.testing.assert_close(
        objective.match(student, teacher)["loss"], slow_seed(student, teacher, queue, 0.1, 0.2)
    )


def test_a_first_batch_is_compared_with_itself():
    student, teacher = embeddings()
    loss = Seed(20, 16, 0.1, 0.2).match(student, teacher)["loss"]
    torch.testing.assert_close(loss, slow_seed(student, teacher, teacher, 0.1, 0.2))


def test_at_the_authors_temperature_it_is_info_nce_with_the_teacher_s_embedding():
    objective = build_objective(ObjectiveConfig(name="seed"), LossContext(8, 16, 100, 7))
    objective(share(0, 1, 0))
    student, teacher = embeddings(seed=1)
    columns = torch.stack([torch.cat([own[None], embeddings(seed=0)[1]]) for own in teacher])
    logits = F.cosine_similarity(student[:, None], columns, dim=-1) / 0.2
    expected = F.cross_entropy(logits, torch.zeros(8, dtype=torch.int64))
    torch.testing.assert_close(objective.match(student, teacher)["loss"], expected)


def test_the_loss_of_a_perfect_student_at_equal_temperatures_is_the_teacher_s_entropy():
    objective = filled(0.1, 0.1)
    _, teacher = embeddings(seed=2)
    columns = torch.stack([torch.cat([own[None], objective.queue.rows]) for own in teacher])
    p = torch.distributions.Categorical(
        logits=F.cosine_similarity(teacher[:, None], columns, dim=-1) / 0.1
    )
    torch.testing.assert_close(objective.match(teacher, teacher)["loss"], p.entropy().mean())


def test_the_gradient_is_the_derivative():
    student, teacher = embeddings(3, 16, seed=2, dtype=torch.float64)
    check_gradient(filled(), LossInputs(3, student, student, teachers=(teacher,)))


def test_half_precision_costs_only_rounding():
    check_precision(filled())


@pytest.mark.slow
def test_two_workers_with_half_a_batch_each_equal_one_with_the_whole_batch():
    check_two_workers(partial(Seed, 13, 16, 0.1, 0.2))

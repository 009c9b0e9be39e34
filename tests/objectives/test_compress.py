from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers.distilling import (
    check_gradient,
    check_precision,
    check_two_workers,
    embeddings,
    share,
    slow_kl,
)

from beamclip.config import ObjectiveConfig
from beamclip.objectives import LossContext, LossInputs, build_objective
from beamclip.objectives.compress import Compress


def filled(tau_t=0.1, tau_s=0.2, length=20):
    """After two steps."""
    objective = Compress(length, 16, tau_t, tau_s)
    for step in range(2):
        objective(share(0, 1, step))
    return objective


def slow(student, teacher, queue, tau_t, tau_s):
    return torch.tensor(slow_kl(student.tolist(), teacher.tolist(), queue.tolist(), tau_t, tau_s))


def test_equals_the_equation_written_out_over_the_queue_before_the_batch():
    objective = filled(length=12)
    queue = torch.cat([embeddings(seed=1)[1], embeddings(seed=0)[1][:4]])
    student, teacher = embeddings(seed=2)
    torch.testing.assert_close(
        objective.match(student, teacher)["loss"], slow(student, teacher, queue, 0.1, 0.2)
    )


def test_a_first_batch_is_compared_with_itself():
    student, teacher = embeddings()
    torch.testing.assert_close(
        Compress(20, 16, 0.1, 0.2).match(student, teacher)["loss"],
        slow(student, teacher, teacher, 0.1, 0.2),
    )


def test_equals_torch_s_own_divergence_of_two_categoricals():
    objective = filled()
    student, teacher = embeddings(seed=2)
    p, q = (
        torch.distributions.Categorical(
            logits=F.cosine_similarity(rows[:, None], objective.queue.rows, dim=-1) / tau
        )
        for rows, tau in ((teacher, 0.1), (student, 0.2))
    )
    torch.testing.assert_close(
        objective.match(student, teacher)["loss"], torch.distributions.kl_divergence(p, q).mean()
    )


def test_a_perfect_student_has_no_loss_at_the_authors_temperatures():
    objective = build_objective(ObjectiveConfig(name="compress"), LossContext(8, 16, 100, 7))
    assert (objective.teacher_temperature, objective.student_temperature) == (0.04, 0.04)
    for step in range(3):
        _, teacher = embeddings(seed=step)
        assert objective.match(5 * teacher, teacher)["loss"].abs() < 1e-5


def test_the_gradient_is_the_derivative():
    student, teacher = embeddings(3, 16, seed=2, dtype=torch.float64)
    check_gradient(filled(), LossInputs(3, student, student, teachers=(teacher,)))


def test_half_precision_costs_only_rounding():
    check_precision(filled())


@pytest.mark.slow
def test_two_workers_with_half_a_batch_each_equal_one_with_the_whole_batch():
    check_two_workers(partial(Compress, 13, 16, 0.1, 0.2))

from functools import partial

import pytest
import torch
from helpers.distilling import (
    check_gradient,
    check_precision,
    check_two_workers,
    embeddings,
    share,
    slow_kl,
)

from beamclip.config import ObjectiveConfig
from beamclip.objectives import (
    CrossModalSimilarityMatching,
    LossContext,
    LossInputs,
    build_objective,
)
from beamclip.objectives.image_queue import ImageQueue


def filled(tau_t=0.1, tau_s=0.2, length=20):
    """After two steps."""
    objective = ImageQueue(length, 16, tau_t, tau_s)
    for step in range(2):
        objective(share(0, 1, step))
    return objective


def test_equals_the_equation_written_out_over_the_batch_and_the_rest_of_the_queue():
    objective = filled(length=19)
    student, teacher = embeddings(seed=2)
    columns = torch.cat([teacher, embeddings(seed=1)[1], embeddings(seed=0)[1][:3]])
    expected = slow_kl(student.tolist(), teacher.tolist(), columns.tolist(), 0.1, 0.2)
    torch.testing.assert_close(objective.match(student, teacher)["loss"], torch.tensor(expected))


def test_a_queue_of_one_batch_is_csm_with_the_batch_as_anchors():
    student, teacher = embeddings()
    for length in (8, 6):
        objective = ImageQueue(length, 16, 0.1, 0.2)
        objective(share(0, 1, 5))
        csm = CrossModalSimilarityMatching([teacher[:length]], [0.1], 0.2)
        torch.testing.assert_close(
            objective.match(student, teacher)["loss"], csm.match(student, teacher)["loss"]
        )


def test_a_perfect_student_has_no_loss_at_the_default_temperatures():
    objective = build_objective(ObjectiveConfig(name="image_queue"), LossContext(8, 16, 100, 7))
    assert (objective.teacher_temperature, objective.student_temperature) == (0.07, 0.07)
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
    check_two_workers(partial(ImageQueue, 13, 16, 0.1, 0.2))

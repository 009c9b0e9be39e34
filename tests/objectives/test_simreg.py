import pytest
import torch
import torch.nn.functional as F
from helpers.distilling import check_gradient, check_precision, check_two_workers, embeddings
from lightly.loss import NegativeCosineSimilarity

from beamclip.config import ObjectiveConfig
from beamclip.objectives import LossContext, LossInputs, build_objective
from beamclip.objectives.simreg import SimReg


def test_the_loss_is_the_squared_distance_of_unit_vectors():
    student, teacher = embeddings()
    total = 0.0
    for s, t in zip(F.normalize(student).tolist(), F.normalize(teacher).tolist(), strict=True):
        total += sum((a - b) ** 2 for a, b in zip(s, t, strict=True))
    torch.testing.assert_close(SimReg().match(student, teacher)["loss"], torch.tensor(total / 8))


def test_equals_lightly_s_negative_cosine():
    student, teacher = embeddings(32)
    torch.testing.assert_close(
        SimReg().match(student, teacher)["loss"],
        2 + 2 * NegativeCosineSimilarity()(student, teacher),
    )


def test_a_perfect_student_of_any_length_has_no_loss_and_no_gradient():
    _, teacher = embeddings()
    student = (3 * teacher).requires_grad_()
    loss = SimReg().match(student, teacher, torch.ones(8, 5))["loss"]
    loss.backward()
    assert loss.abs() < 1e-6
    assert student.grad.abs().max() < 1e-6


def test_the_gradient_is_the_derivative():
    student, teacher = embeddings(3, 4, dtype=torch.float64)
    check_gradient(SimReg(), LossInputs(3, student, student, teachers=(teacher,)))


@pytest.mark.slow
def test_half_precision_and_two_workers():
    check_precision(SimReg())
    check_two_workers(SimReg)


def test_a_config_builds_it():
    assert (
        type(build_objective(ObjectiveConfig(name="simreg"), LossContext(8, 16, 100, 7))) is SimReg
    )

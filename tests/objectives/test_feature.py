import pytest
import torch
from helpers.distilling import (
    check_gradient,
    check_precision,
    check_two_workers,
    cosine,
    embeddings,
)
from lightly.loss import NegativeCosineSimilarity

from beamclip.config import ObjectiveConfig
from beamclip.objectives import LossContext, LossInputs, build_objective
from beamclip.objectives.feature import FeatureRegression


def test_equals_the_equation_written_out():
    student, teacher = embeddings()
    pairs = zip(student.tolist(), teacher.tolist(), strict=True)
    expected = sum(1 - cosine(s, t) for s, t in pairs) / len(student)
    assert FeatureRegression().match(student, teacher)["loss"].item() == pytest.approx(
        expected, rel=1e-5
    )


def test_equals_torch_s_cosine_embedding_loss_and_lightly_s():
    student, teacher = embeddings(32)
    loss = FeatureRegression().match(student, teacher)["loss"]
    torch.testing.assert_close(
        loss, torch.nn.CosineEmbeddingLoss()(student, teacher, torch.ones(32))
    )
    torch.testing.assert_close(loss, 1 + NegativeCosineSimilarity()(student, teacher))


@pytest.mark.parametrize(
    ("student", "expected"), [([0, 3.0], 0.0), ([2.0, 0], 1.0), ([0, -1.0], 2.0)]
)
def test_a_perfect_student_has_no_loss_a_right_angle_one_and_the_opposite_two(student, expected):
    loss = FeatureRegression().match(torch.tensor([student]), torch.tensor([[0, 0.5]]))["loss"]
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_only_the_first_of_several_teachers_is_used_and_others_may_have_another_width():
    student, teacher = embeddings()
    loss = FeatureRegression().match(student, teacher)["loss"]
    assert torch.equal(
        FeatureRegression().match(student, teacher, -teacher, torch.ones(8, 3))["loss"], loss
    )


def test_the_teacher_gets_no_gradient_and_the_student_s_is_the_derivative():
    student, teacher = (x.requires_grad_() for x in embeddings(3, 4, dtype=torch.float64))
    FeatureRegression().match(student, teacher)["loss"].backward()
    assert student.grad is not None and teacher.grad is None
    check_gradient(FeatureRegression(), LossInputs(3, student, student, teachers=(teacher,)))


@pytest.mark.slow
def test_half_precision_and_two_workers():
    check_precision(FeatureRegression())
    check_two_workers(FeatureRegression)


def test_a_config_builds_it():
    built = build_objective(ObjectiveConfig(name="feature"), LossContext(8, 16, 100, 7))
    assert type(built) is FeatureRegression

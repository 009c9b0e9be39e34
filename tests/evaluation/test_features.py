import pytest
import torch

from beamclip.config import StudentConfig, UserError
from beamclip.evaluation import LabelledFeatures, extract
from beamclip.students import build_student


@pytest.fixture
def student():
    return build_student(
        StudentConfig(backbone="test_resnet", image_size=32, projector_width=24), 16, 0
    )


@pytest.fixture
def images():
    return torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_features_come_in_order_whatever_the_batches(student, images):
    student(images)  # so that batch statistics are not the initial ones
    out = extract(student, images.split(3), "cpu")
    one = extract(student, [images], "cpu")
    torch.testing.assert_close(out.features, one.features)
    torch.testing.assert_close(out.embeddings, student.eval()(images))
    assert out.features.shape == (7, 96)
    assert out.embeddings.shape == (7, 16)


def test_every_part_gets_its_mode_back_and_no_statistics_move(student, images):
    student.train()
    student.backbone.layer1.eval()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    extract(student, [images], "cpu")
    assert student.training
    assert student.projector.training
    assert not student.backbone.layer1.training
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_the_modes_come_back_after_a_failure_too(student):
    with pytest.raises(RuntimeError):
        extract(student.train(), [torch.zeros(1, 4, 32, 32)], "cpu")
    assert student.training
    assert student.backbone.training


def test_results_are_fp32_under_bf16_and_are_ordinary_tensors(student, images):
    exact, rough = extract(student, [images], "cpu"), extract(student, [images], "cpu", "bf16")
    assert rough.features.dtype == rough.embeddings.dtype == torch.float32
    assert not torch.equal(rough.features, exact.features)
    torch.testing.assert_close(rough.features, exact.features, rtol=0.1, atol=0.05)
    assert not exact.features.is_inference()
    assert not exact.features.requires_grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_a_sentence(bad):
    good, broken, labels = (
        torch.zeros(2, 3),
        torch.tensor([[0.0, 1, 2], [bad, 0, 0]]),
        torch.zeros(2, dtype=torch.int64),
    )
    with pytest.raises(
        UserError, match=r"student's features hold NaN or infinity, .* lower optimiser.lr"
    ):
        LabelledFeatures(broken, None, labels)
    with pytest.raises(UserError, match="student's embeddings hold NaN"):
        LabelledFeatures(good, broken, labels)


def test_rows_must_agree():
    with pytest.raises(ValueError, match="same number of rows"):
        LabelledFeatures(torch.zeros(2, 3), None, torch.zeros(3, dtype=torch.int64))

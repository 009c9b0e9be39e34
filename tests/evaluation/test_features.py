"""Feature extraction, and the checks of labeled features."""

import pytest
import torch

from beamclip.config import StudentConfig, UserError
from beamclip.evaluation import LabeledFeatures, extract
from beamclip.students import build_student


@pytest.fixture
def student():
    return build_student(
        StudentConfig(backbone="test_resnet", image_size=32, projector_width=24), 16, 0
    )


@pytest.fixture
def images():
    return torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_features_keep_the_order_of_images_for_any_batches(student, images):
    student(images)  # so that batch statistics are not the initial ones
    batched = extract(student, images.split(3), "cpu")
    whole = extract(student, [images], "cpu")
    torch.testing.assert_close(batched.features, whole.features)
    torch.testing.assert_close(batched.embeddings, student.eval()(images))
    assert batched.features.shape == (7, 96)
    assert batched.embeddings.shape == (7, 16)


def test_every_module_s_mode_is_restored_and_no_statistics_change(student, images):
    student.train()
    student.backbone.layer1.eval()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    extract(student, [images], "cpu")
    assert student.training
    assert student.projector.training
    assert not student.backbone.layer1.training
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_modes_are_restored_after_a_failure_too(student):
    with pytest.raises(RuntimeError):
        extract(student.train(), [torch.zeros(1, 4, 32, 32)], "cpu")
    assert student.training
    assert student.backbone.training


def test_results_are_fp32_under_bf16_and_are_ordinary_tensors(student, images):
    exact = extract(student, [images], "cpu")
    rough = extract(student, [images], "cpu", "bf16")
    assert rough.features.dtype == rough.embeddings.dtype == torch.float32
    assert not torch.equal(rough.features, exact.features)
    torch.testing.assert_close(rough.features, exact.features, rtol=0.1, atol=0.05)
    assert not exact.features.is_inference()
    assert not exact.features.requires_grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_a_user_error(bad):
    good = torch.zeros(2, 3)
    broken = torch.tensor([[0.0, 1, 2], [bad, 0, 0]])
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(
        UserError, match=r"student's features contain NaN or infinity, .* lower optimizer.lr"
    ):
        LabeledFeatures(broken, None, labels)
    with pytest.raises(UserError, match="student's embeddings contain NaN"):
        LabeledFeatures(good, broken, labels)


def test_columns_must_have_the_same_length():
    with pytest.raises(ValueError, match="same number of rows"):
        LabeledFeatures(torch.zeros(2, 3), None, torch.zeros(3, dtype=torch.int64))

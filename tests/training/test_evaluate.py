import numpy as np
import pytest
import torch
from helpers.gloo import in_processes

from beamclip.config import RECIPES, StudentConfig, with_values
from beamclip.data import draw, even_subset
from beamclip.data.augmentation.render import PixelFormat, render
from beamclip.preparation.assets import open_assets
from beamclip.students import build_student, save_student
from beamclip.training import evaluate as evaluate_module
from beamclip.training.context import Context
from beamclip.training.evaluate import (
    evaluation_features,
    labeled_features,
    probe_student,
    student_pixels,
    untrained_metrics,
)

STUDENT = StudentConfig(backbone="test_vit", image_size=32, projector_width=32)


@pytest.fixture
def opened(experiment, assets):
    return open_assets(assets, experiment.data)


def test_the_student_s_own_normalization_is_used():
    student = build_student(STUDENT, 16, 0)
    assert student_pixels(student, 24) == PixelFormat(24, *student.normalization, "bilinear")


def test_features_are_those_of_the_canonical_views_in_id_order(opened, monkeypatch):
    student, ids = build_student(STUDENT, 16, 0), opened.splits.val[::-1].copy()
    pixels = student_pixels(student, 32)
    monkeypatch.setattr(evaluate_module, "_BATCH", 5)
    out = labeled_features(opened.packed, ids, student, pixels, Context())
    images = render(
        torch.from_numpy(opened.packed.read(ids)),
        draw(RECIPES["center"], ids, np.zeros(len(ids), int), 0),
        pixels,
    )
    with torch.inference_mode():
        features = student.eval().features(images)
        torch.testing.assert_close(out.embeddings, student.projector(features))
    torch.testing.assert_close(out.features, features)
    assert out.labels.tolist() == opened.packed.labels[ids].tolist()
    assert out.ids.tolist() == ids.tolist()


def features_on(rank, world_size, experiment, assets, counts):
    opened, student = open_assets(assets, experiment.data), build_student(STUDENT, 16, 0)
    context, pixels = Context(rank, world_size), student_pixels(student, 32)
    parts = [
        labeled_features(opened.packed, opened.splits.val[:count], student, pixels, context)
        for count in counts
    ]
    return [(part.features, part.embeddings, part.labels) for part in parts]


def test_two_workers_share_the_work_and_both_get_all_features_in_order(experiment, assets):
    counts = [32, 7, 1]  # uneven, and one image for two workers
    alone = features_on(0, 1, experiment, assets, counts)
    first, second = in_processes(2, features_on, experiment, assets, counts)
    for one, ours, theirs in zip(alone, first, second, strict=True):
        for expected, a, b in zip(one, ours, theirs, strict=True):
            assert torch.equal(a, b)
            torch.testing.assert_close(a, expected, rtol=1e-5, atol=1e-5)


def test_a_share_of_train_is_drawn_evenly_over_the_classes(opened, experiment):
    student = build_student(STUDENT, 16, 0)
    probe = experiment.probe.model_copy(update={"train_images": 20})
    parts = evaluation_features(
        student, opened.packed, opened.splits, student_pixels(student, 32), probe, Context()
    )
    train = opened.splits.train
    ids = even_subset(train, opened.packed.labels[train], 20)
    assert parts[0].labels.tolist() == opened.packed.labels[ids].tolist()
    assert [part.labels.bincount().tolist() for part in parts] == [[5] * 4, [8] * 4, [8] * 4]


@pytest.mark.parametrize("asked", [None, 128, 1000])
def test_all_of_train_is_used_by_default(opened, experiment, asked):
    student = build_student(STUDENT, 16, 0)
    probe = experiment.probe.model_copy(update={"train_images": asked})
    parts = evaluation_features(
        student, opened.packed, opened.splits, student_pixels(student, 32), probe, Context()
    )
    assert parts[0].labels.tolist() == opened.packed.labels[opened.splits.train].tolist()


def probed_on(rank, world_size, experiment, assets):
    opened, student = open_assets(assets, experiment.data), build_student(STUDENT, 16, 0)
    evaluation = probe_student(
        student, opened, student_pixels(student, 32), experiment.probe, Context(rank, world_size)
    )
    return evaluation and evaluation.metrics


@pytest.mark.slow
def test_a_student_is_probed_once_with_the_same_result_for_any_number_of_workers(
    experiment, assets
):
    quick = with_values(experiment, {"probe.train_images": 40})
    alone = probed_on(0, 1, quick, assets)
    first, second = in_processes(2, probed_on, quick, assets)
    assert second is None
    assert first == pytest.approx(alone, abs=3.2)  # one image of 32 may fall to the other side
    assert {
        "linear_probe/val_top1",
        "linear_probe/test_top1",
        "knn/test_top1",
        "zero_shot/test_top1",
    } <= alone.keys()


# The untrained student, as a baseline.


CPU = torch.device("cpu")


def test_the_untrained_student_of_a_seed_is_probed_once(experiment, assets, tmp_path, monkeypatch):
    metrics = untrained_metrics(experiment, assets, tmp_path, CPU)
    student = build_student(experiment.student, 16, experiment.seed)
    opened = open_assets(assets, experiment.data)
    assert metrics == pytest.approx(
        probe_student(
            student, opened, student_pixels(student, 32), experiment.probe, Context()
        ).metrics
    )
    monkeypatch.setattr("beamclip.training.evaluate.probe_student", None)  # calling it would fail
    assert (
        untrained_metrics(with_values(experiment, {"optimizer.lr": 0.5}), assets, tmp_path, CPU)
        == metrics
    )


def test_a_student_that_starts_from_another_has_no_untrained_metrics(experiment, assets, tmp_path):
    trained = build_student(experiment.student, 16, 7)
    save_student(trained, tmp_path / "other.safetensors")
    other = with_values(experiment, {"student.init": str(tmp_path / "other.safetensors")})
    assert untrained_metrics(other, assets, tmp_path, CPU) == untrained_metrics(
        experiment, assets, tmp_path, CPU
    )


@pytest.mark.parametrize(
    "values", [{"seed": 1}, {"student.projector": "linear"}, {"probe.knn_k": 7}]
)
def test_settings_that_change_the_untrained_student_give_another_probe(
    experiment, assets, tmp_path, values
):
    untrained_metrics(experiment, assets, tmp_path, CPU)
    untrained_metrics(with_values(experiment, values), assets, tmp_path, CPU)
    assert len([path for path in (tmp_path / "untrained").iterdir() if path.is_dir()]) == 2

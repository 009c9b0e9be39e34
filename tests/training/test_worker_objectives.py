"""Complete runs with objectives that learn from images or labels; csm is in test_worker.py."""

import pytest
import torch
from helpers.gloo import in_processes

from beamclip.config import UserError, with_values
from beamclip.preparation.build import prepare
from beamclip.preparation.context import PreparationContext
from tests.training.test_worker import curves, losses, on_rank, same_bits, train, weights

pytestmark = pytest.mark.slow

SMALL = {
    "simclr": {"objective.simclr": {"hidden": 32, "width": 16, "temperature": 0.2}},
    "swav": {
        "views.recipe": "multicrop",
        "objective.swav": {
            "prototypes": 12,
            "hidden": 32,
            "width": 16,
            "frozen_epochs": 0.25,
            # Not a multiple of the batch.
            "queue": 40,
            "queue_from_epoch": 1.0,
        },
    },
    "supervised": {"objective.supervised": {"label_smoothing": 0.1}},
}
TERMS = {
    "simclr": {"loss", "contrast_accuracy"},
    "swav": {"loss", "prototype_usage"},
    "supervised": {"loss", "accuracy"},
}
WHOLE = {
    "student.backbone": "test_resnet",
    "student.small_image_stem": "never",
    "optimizer.lr": 0.003,
}


def method(experiment, stores, name, **values):
    """The experiment with another objective, and its stores."""
    other = with_values(experiment, {"objective.name": name, **WHOLE, **SMALL[name], **values})
    return other, prepare(other, PreparationContext(stores))


@pytest.fixture(scope="module", params=list(SMALL))
def whole_run(request, experiment, stores, tmp_path_factory):
    """A finished run on one worker: (name, (experiment, assets), reports, checkpoint folder)."""
    prepared = method(experiment, stores, request.param)
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, prepared, train(*prepared, folder), folder


def goes_down(values):
    quarter = len(values) // 4
    return sum(values[-quarter:]) < 0.97 * sum(values[:quarter])


def test_an_objective_without_teacher_learns_and_has_no_zero_shot(whole_run):
    name, _, reports, _ = whole_run
    assert goes_down(losses(reports))
    assert {
        key.removeprefix("train/")
        for metrics in reports
        for key, _, _ in metrics.get("history", [])
    } == TERMS[name]
    assert {"linear_probe/val_top1", "linear_probe/test_top1", "knn/test_top1"} <= reports[
        -1
    ].keys()
    assert not [key for metrics in reports for key in metrics if key.startswith("zero_shot/")]


def test_no_teacher_encodes_a_training_image(whole_run):
    _, (_, assets), reports, _ = whole_run
    assert all(teacher.views is None for teacher in assets.teachers)
    assert reports[-1]["teacher/images_encoded"] == 0
    assert reports[0]["cost/teacher_images"] == 0


def test_a_run_that_was_killed_resumes_exactly(whole_run, tmp_path):
    """With SwAV the second epoch is the first to use the queue, which the first epoch filled."""
    _, prepared, reports, folder = whole_run
    first = train(*prepared, tmp_path / "first", die_after=1)
    # A new process has another random state.
    torch.manual_seed(12345)
    rest = train(*prepared, tmp_path / "rest", checkpoint=tmp_path / "first" / "0")
    assert curves(first + rest) == curves(reports)
    assert same_bits(weights(tmp_path / "rest" / "1"), weights(folder / "2"))


def test_swav_s_queue_is_used_and_in_the_checkpoint(experiment, stores, tmp_path):
    prepared = method(experiment, stores, "swav")
    reports = train(*prepared, tmp_path / "with", die_after=2)
    state = torch.load(tmp_path / "with" / "0" / "state.pt", weights_only=True)
    state["objective"]["queue.rows"] = state["objective"]["queue.rows"].flip(1)
    (damaged := tmp_path / "damaged").mkdir()
    for file in (tmp_path / "with" / "0").iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    torch.save(state, damaged / "state.pt")
    rest = train(*prepared, tmp_path / "rest", die_after=1, checkpoint=damaged)
    assert losses(rest)[0] != losses(reports)[8]


def test_a_sum_with_distillation_gets_views_crops_and_teacher_embeddings(
    experiment, stores, tmp_path
):
    prepared = method(experiment, stores, "swav", **{"objective.name": "csm+swav"})
    reports = train(*prepared, tmp_path)
    assert {
        "train/csm_loss",
        "train/swav_loss",
        "train/swav_prototype_usage",
        "zero_shot/val_top1",
    } <= reports[0].keys()
    assert reports[0]["train/loss"] == pytest.approx(
        reports[0]["train/csm_loss"] + reports[0]["train/swav_loss"], rel=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simclr", "swav"])
def test_it_learns_and_resumes_on_two_workers(experiment, stores, tmp_path, name):
    prepared = method(experiment, stores, name)
    both = in_processes(2, on_rank, *prepared, tmp_path / "both")
    assert curves(both[0])[:2] == curves(both[1])[:2]
    assert goes_down(losses(both[0]))
    rest = in_processes(2, on_rank, *prepared, tmp_path / "rest", None, tmp_path / "both" / "0")
    assert curves(rest[0]) == curves(both[0])[1:]
    assert same_bits(weights(tmp_path / "rest" / "1"), weights(tmp_path / "both" / "2"))


def test_a_teacher_without_stored_views_only_encodes_val_and_test(experiment, tmp_path):
    _, assets = method(experiment, tmp_path, "simclr")
    assert assets.facts.images_encoded == 32 + 32


def test_swav_works_without_small_crops(experiment, stores, tmp_path):
    prepared = method(experiment, stores, "swav", **{"views.recipe": "simclr_small"})
    assert losses(train(*prepared, tmp_path, die_after=1))


def test_a_queue_longer_than_the_training_images_is_a_user_error_before_anything_starts(
    experiment, stores
):
    with pytest.raises(
        UserError, match=r"objective.swav.queue is 129, but there are 128 training images"
    ):
        method(experiment, stores, "swav", **{"objective.swav.queue": 129})

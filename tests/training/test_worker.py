import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.gloo import in_processes
from safetensors.torch import load_file

from beamclip.config import with_values
from beamclip.data.augmentation.render import render
from beamclip.evaluation import load_probe
from beamclip.preparation.assets import open_assets
from beamclip.preparation.build import prepare
from beamclip.preparation.context import PreparationContext
from beamclip.students import build_student, load_student, training_cost_of
from beamclip.training import worker
from beamclip.training.context import Context
from beamclip.training.evaluate import labeled_features, student_pixels
from beamclip.training.loop import TrainingDiverged
from beamclip.training.worker import run_worker


class Killed(BaseException):
    """Ends a run as a lost node would."""


class Reports(list):
    """Records every report and copies every checkpoint to `folder/NUMBER`.

    Raises `Killed` after `die_after` reports.
    """

    def __init__(self, folder, die_after=None):
        super().__init__()
        self.folder, self.die_after = folder, die_after

    def __call__(self, metrics, checkpoint):
        if checkpoint is not None:
            shutil.copytree(checkpoint, self.folder / str(len(self)))
        self.append(metrics)
        if len(self) == self.die_after:
            raise Killed


def train(experiment, assets, folder, rank=0, world_size=1, die_after=None, checkpoint=None):
    """Train a run. Returns its reports."""
    reports = Reports(folder, die_after)
    try:
        run_worker(
            experiment, assets, Context(rank, world_size, report=reports, checkpoint=checkpoint)
        )
    except Killed:
        assert die_after
    return list(reports)


def on_rank(rank, world_size, experiment, assets, folder, die_after=None, checkpoint=None):
    return train(experiment, assets, folder, rank, world_size, die_after, checkpoint)


def curves(reports):
    """Loss histories and validation results, which do not depend on time."""
    return [
        (metrics.get("history"), metrics.get("train/loss"), metrics.get("zero_shot/val_top1"))
        for metrics in reports
    ]


def losses(reports):
    return [
        value
        for metrics in reports
        for key, value, _ in metrics.get("history", [])
        if key == "train/loss"
    ]


def weights(folder):
    return load_file(folder / "student.safetensors")


def same_bits(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


@pytest.fixture(scope="module")
def alone(experiment, assets, tmp_path_factory):
    """The experiment run through on one worker: its reports and the folder of its checkpoints."""
    folder = tmp_path_factory.mktemp("alone")
    return train(experiment, assets, folder), folder


FILES = [
    "evaluation.json",
    "predictions.safetensors",
    "probe.safetensors",
    "state.pt",
    "student.safetensors",
]


def test_a_run_reports_every_epoch_and_its_evaluation_at_the_end(alone):
    reports, folder = alone
    assert [metrics["epoch"] for metrics in reports] == [1, 2, 2]
    steps = [
        [step for key, _, step in metrics["history"] if key == "train/loss"]
        for metrics in reports[:2]
    ]
    assert steps == [list(range(1, 9)), list(range(9, 17))]
    assert losses(reports)[-1] < losses(reports)[0]
    probed = {
        "linear_probe/val_top1",
        "linear_probe/test_top1",
        "knn/test_top1",
        "zero_shot/test_top1",
        "evaluation/seconds",
    }
    assert probed <= reports[2].keys()
    assert sorted(file.name for file in (folder / "2").iterdir()) == FILES
    assert same_bits(weights(folder / "1"), weights(folder / "2"))
    width = load_student(folder / "2" / "student.safetensors").backbone.num_features
    assert load_probe(folder / "2" / "probe.safetensors").weight.shape == (4, width)


def test_the_evaluation_s_files_are_of_the_run_s_own_test_images(experiment, assets, alone):
    reports, folder = alone
    opened = open_assets(assets, experiment.data)
    predictions = load_file(folder / "2" / "predictions.safetensors")
    assert predictions["ids"].tolist() == opened.splits.test.tolist()
    assert predictions["labels"].tolist() == opened.packed.labels[opened.splits.test].tolist()
    for name, metric in (("probe", "linear_probe/test_top1"), ("zero_shot", "zero_shot/test_top1")):
        hits = predictions[name] == predictions["labels"]
        assert 100 * hits.double().mean().item() == pytest.approx(reports[2][metric])
    content = json.loads((folder / "2" / "evaluation.json").read_text())
    assert content["names"] == list(opened.packed.names)
    assert content["metrics"]["linear_probe/val_top1"] == reports[2]["linear_probe/val_top1"]


def test_an_evaluation_has_the_class_names_of_the_run_not_those_of_packing(
    experiment, assets, alone, copied_stores, tmp_path
):
    (tmp_path / "names.txt").write_text("lichen\nbriar rose\nbeach\nfloe\n")
    # The weights of this teacher are random, and could fit the names better in another order.
    values = {"data.class_names": str(tmp_path / "names.txt"), "data.check_class_names": False}
    renamed = with_values(experiment, values)
    renamed_assets = prepare(renamed, PreparationContext(copied_stores))
    assert Path(renamed_assets.packed).name == Path(assets.packed).name
    train(renamed, renamed_assets, tmp_path, checkpoint=alone[1] / "2")
    kept = next(tmp_path.glob("*/evaluation.json"))
    assert json.loads(kept.read_text())["names"] == ["lichen", "briar rose", "beach", "floe"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_and_another_seed_another_run(
    experiment, assets, alone, tmp_path
):
    reports, folder = alone
    again = train(experiment, assets, tmp_path / "again")
    assert curves(again) == curves(reports)
    assert same_bits(weights(tmp_path / "again" / "2"), weights(folder / "2"))
    other = train(with_values(experiment, {"seed": 1}), assets, tmp_path / "other", die_after=1)
    assert losses(other)[0] != losses(reports)[0]


@pytest.mark.slow
def test_a_run_that_was_killed_resumes_exactly(experiment, assets, alone, tmp_path):
    reports, folder = alone
    first = train(experiment, assets, tmp_path / "first", die_after=1)
    # A new process has another random state.
    torch.manual_seed(12345)
    rest = train(experiment, assets, tmp_path / "rest", checkpoint=tmp_path / "first" / "0")
    assert curves(first + rest) == curves(reports)
    assert same_bits(weights(tmp_path / "rest" / "1"), weights(folder / "2"))
    names = (
        "linear_probe/val_top1",
        "linear_probe/test_top1",
        "knn/test_top1",
        "zero_shot/test_top1",
    )
    assert [rest[-1][name] for name in names] == [reports[-1][name] for name in names]


@pytest.mark.slow
def test_a_resumed_run_has_the_same_dropout(experiment, assets, tmp_path, monkeypatch):
    def with_dropout(*arguments):
        student = build_student(*arguments)
        student.register_forward_hook(lambda module, _, out: F.dropout(out, 0.5, module.training))
        return student

    monkeypatch.setattr("beamclip.training.setup.build_student", with_dropout)
    whole = train(experiment, assets, tmp_path / "whole", die_after=2)
    torch.manual_seed(12345)
    rest = train(
        experiment, assets, tmp_path / "rest", die_after=1, checkpoint=tmp_path / "whole" / "0"
    )
    assert curves(rest) == curves(whole)[1:]


def test_a_run_killed_before_its_evaluation_is_only_evaluated(experiment, assets, alone, tmp_path):
    reports, folder = alone
    rest = train(experiment, assets, tmp_path, checkpoint=folder / "1")
    assert [metrics["epoch"] for metrics in rest] == [2]
    assert rest[0]["linear_probe/test_top1"] == reports[2]["linear_probe/test_top1"]


def test_a_finished_run_is_evaluated_again_since_its_last_report_may_be_lost(
    experiment, assets, alone, tmp_path
):
    reports, folder = alone
    (again,) = train(experiment, assets, tmp_path, checkpoint=folder / "2")
    timed = ("evaluation/seconds",)
    assert {key: value for key, value in again.items() if key not in timed} == {
        k: v for k, v in reports[2].items() if k not in timed
    }


def test_the_cost_of_a_run_includes_that_of_the_student_it_starts_from(
    experiment, assets, alone, tmp_path
):
    reports, folder = alone
    started = with_values(experiment, {"student.init": str(folder / "2" / "student.safetensors")})
    *_, last = train(started, assets, tmp_path)
    first = {
        name: reports[2][f"cost/{name}"]
        for name in ("device_seconds", "images_seen", "teacher_images")
    }
    assert {name: last[f"cost/start_{name}"] for name in first} == pytest.approx(first)
    assert last["cost/images_seen"] == 2 * first["images_seen"]
    assert last["cost/device_seconds"] > first["device_seconds"]
    assert (
        training_cost_of(tmp_path / "2" / "student.safetensors").images_seen
        == last["cost/images_seen"]
    )
    assert "cost/start_images_seen" not in reports[2]


@pytest.mark.slow
def test_a_trial_never_runs_a_teacher(experiment, assets, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a trial loaded a teacher")

    for name in (
        "beamclip.teachers.loading.load_teacher",
        "beamclip.teachers.load_teacher",
        "beamclip.training.dataloader.load_teacher",
    ):
        monkeypatch.setattr(name, refuse)
    monkeypatch.setattr("open_clip.create_model", refuse)
    reports = train(experiment, assets, tmp_path)
    assert reports[-1]["teacher/images_encoded"] == 0


def test_a_trial_that_reads_stores_must_not_encode_images(
    experiment, assets, teacher, tmp_path, monkeypatch
):
    """Otherwise a sweep could silently run its teacher in every trial."""

    def encode(self, ids, view, images, parameters):
        return teacher.encode_images(render(images, parameters, teacher.pixels)).clone()

    monkeypatch.setattr("beamclip.training.dataloader.MappedEmbeddings.read", encode)
    with pytest.raises(AssertionError, match="a trial that reads stores encoded 128 images"):
        train(experiment, assets, tmp_path)


@pytest.fixture(scope="module")
def live(experiment, stores):
    """The experiment with a teacher inside training, and its stores."""
    inside = with_values(experiment, {"views.teacher": "live"})
    return inside, prepare(inside, PreparationContext(stores))


@pytest.mark.slow
def test_a_teacher_inside_training_encodes_every_image_in_every_epoch(live, alone, tmp_path):
    reports = train(*live, tmp_path)
    assert reports[-1]["teacher/images_encoded"] == 128 * 2
    # For as many epochs as there are stored views, both use the same views; the stored embeddings
    # have half precision.
    assert losses(reports) == pytest.approx(losses(alone[0]), rel=1e-2)


@pytest.mark.slow
def test_images_encoded_before_a_restart_are_counted_too(live, tmp_path):
    train(*live, tmp_path / "first", die_after=1)
    rest = train(*live, tmp_path / "rest", checkpoint=tmp_path / "first" / "0")
    assert rest[-1]["teacher/images_encoded"] == 128 * 2


@pytest.mark.slow
def test_images_encoded_are_those_of_all_workers(live, tmp_path):
    both = in_processes(2, on_rank, *live, tmp_path)
    assert [reports[-1]["teacher/images_encoded"] for reports in both] == [256, 256]


@pytest.mark.slow
def test_several_teachers_give_the_same_loss_from_stores_and_inside_training(
    experiment, stores, alone, other_folder, tmp_path
):
    several = with_values(
        experiment,
        {"teacher.others": [{"model": f"local-dir:{other_folder}", "temperature": 0.02}]},
    )
    inside = with_values(several, {"views.teacher": "live"})
    stored = train(several, prepare(several, PreparationContext(stores)), tmp_path / "stored")
    lived = train(inside, prepare(inside, PreparationContext(stores)), tmp_path / "lived")
    assert [reports[-1]["teacher/images_encoded"] for reports in (stored, lived)] == [0, 2 * 256]
    assert losses(lived) == pytest.approx(losses(stored), rel=1e-2)
    # The second teacher changes the loss.
    assert losses(stored)[0] != pytest.approx(losses(alone[0])[0], rel=1e-2)


@pytest.mark.slow
def test_resident_data_gives_the_same_bits(experiment, assets, alone, tmp_path):
    resident = train(with_values(experiment, {"scaling.resident": "always"}), assets, tmp_path)
    assert curves(resident) == curves(alone[0])
    assert same_bits(weights(tmp_path / "2"), weights(alone[1] / "2"))


@pytest.mark.slow
def test_two_workers_give_the_single_worker_s_curve(experiment, assets, alone, tmp_path):
    both = in_processes(2, on_rank, experiment, assets, tmp_path / "both")
    assert curves(both[0])[:2] == curves(both[1])[:2]
    assert losses(both[0]) == pytest.approx(losses(alone[0]), rel=1e-3)
    # All ranks report equally often.
    assert [metrics["epoch"] for metrics in both[1]] == [1, 2, 2]
    halfway = tmp_path / "both" / "0"
    resumed = in_processes(2, on_rank, experiment, assets, tmp_path / "resumed", None, halfway)
    assert curves(resumed[0]) == curves(both[0])[1:]
    assert same_bits(weights(tmp_path / "resumed" / "1"), weights(tmp_path / "both" / "2"))


def validated_on_rank(rank, world_size, experiment, assets, folder):
    """Train for one epoch. Returns the features of val that the worker computed."""
    computed = []
    original = worker.labeled_features

    def record(*arguments):
        computed.append(original(*arguments))
        return computed[-1]

    # Not undone: the process ends after this function.
    worker.labeled_features = record
    train(experiment, assets, folder, rank, world_size, die_after=1)
    return computed[0].features


@pytest.mark.slow
def test_with_batch_statistics_all_workers_evaluate_the_student_that_is_saved(
    experiment, assets, tmp_path
):
    normed = with_values(experiment, {"student.backbone": "test_resnet"})
    features = in_processes(2, validated_on_rank, normed, assets, tmp_path)
    student = load_student(tmp_path / "0" / "student.safetensors")
    opened = open_assets(assets, normed.data)
    saved = labeled_features(
        opened.packed, opened.splits.val, student, student_pixels(student, 32), Context()
    ).features
    for computed in features:
        torch.testing.assert_close(computed, saved, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "values", [{"optimizer.lr": 1e30}, {"optimizer.lr": 1e30, "optimizer.batch_size": 128}]
)
def test_a_loss_that_is_not_finite_ends_the_run_without_a_checkpoint(
    experiment, assets, tmp_path, values
):
    """With a single step per epoch, only the features show it."""
    with pytest.raises(TrainingDiverged, match=r"lower optimizer.lr or set optimizer.clip_norm"):
        train(with_values(experiment, {"optimizer.name": "sgd", **values}), assets, tmp_path)
    assert list(tmp_path.iterdir()) == []

import pytest
import torch

from beamclip.config import with_values
from beamclip.preparation.assets import open_assets
from beamclip.students import build_student, save_student
from beamclip.training.context import Context
from beamclip.training.evaluate import probe_student, student_pixels, untrained_metrics

CPU = torch.device("cpu")


def test_the_student_of_this_seed_is_probed_as_any_other_and_once(
    experiment, assets, tmp_path, monkeypatch
):
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
        untrained_metrics(with_values(experiment, {"optimiser.lr": 0.5}), assets, tmp_path, CPU)
        == metrics
    )


def test_a_student_that_starts_from_another_is_not_taken_for_an_untrained_one(
    experiment, assets, tmp_path
):
    trained = build_student(experiment.student, 16, 7)
    save_student(trained, tmp_path / "other.safetensors")
    other = with_values(experiment, {"student.init": str(tmp_path / "other.safetensors")})
    assert untrained_metrics(other, assets, tmp_path, CPU) == untrained_metrics(
        experiment, assets, tmp_path, CPU
    )


@pytest.mark.parametrize(
    "values", [{"seed": 1}, {"student.projector": "linear"}, {"probe.knn_k": 7}]
)
def test_what_it_depends_on_gives_another_probing(experiment, assets, tmp_path, values):
    untrained_metrics(experiment, assets, tmp_path, CPU)
    untrained_metrics(with_values(experiment, values), assets, tmp_path, CPU)
    assert len([path for path in (tmp_path / "untrained").iterdir() if path.is_dir()]) == 2

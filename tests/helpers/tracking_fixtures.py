"""Fixtures with sweeps in a real MLflow database, in sqlite."""

import shutil
from dataclasses import dataclass

import pytest
from mlflow import MlflowClient

from beamclip.config import Experiment, Sweep, choice
from beamclip.tracking import SweepTracker, connect

TAU_T, TAU_S = "objective.teacher_temperature", "objective.student_temperature"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A database with MLflow's tables, which take seconds to create; tests copy the file."""
    path = tmp_path_factory.mktemp("mlflow") / "template.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def uri(empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def sweep():
    return temperature_sweep()


@pytest.fixture
def base():
    return demo_base()


@pytest.fixture
def opened(uri, sweep, base):
    """`opened("id", resume=True)`: a tracker in this test's database."""
    return lambda sweep_id="s1", **options: SweepTracker.open(
        uri, None, sweep, base, sweep_id, **options
    )


@pytest.fixture(scope="session")
def finished_database(empty_database, tmp_path_factory):
    """A database with one finished sweep, and the ids of its experiment and run."""
    path = tmp_path_factory.mktemp("mlflow_finished") / "template.db"
    shutil.copy(empty_database, path)
    tracker = SweepTracker.open(f"sqlite:///{path}", None, temperature_sweep(), demo_base(), "s1")
    write_finished_sweep(tracker)
    return path, tracker.experiment_id, tracker.run_id


@pytest.fixture
def finished(finished_database, uri, tmp_path):
    """A closed sweep with four trials, one of them failed, and both references.

    It replaces what this test's database held before.
    """
    path, experiment_id, run_id = finished_database
    shutil.copy(path, tmp_path / "mlflow.db")
    return FinishedSweep(connect(uri), experiment_id, run_id)


@dataclass(frozen=True)
class FinishedSweep:
    client: MlflowClient
    experiment_id: str
    run_id: str


def temperature_sweep():
    space = {TAU_T: choice(0.02, 0.05), TAU_S: choice(0.05, 0.1)}
    return Sweep(name="temp", question="which temperature?", space=space)


def demo_base():
    return Experiment.model_validate({"data": {"source": "demo"}, "teacher": {"model": "demo"}})


def write_finished_sweep(tracker):
    with tracker:
        trials = [(0.02, 0.05, 40.0), (0.02, 0.1, 45.0), (0.05, 0.05, 44.0)]
        for number, (tau_t, tau_s, val) in enumerate(trials):
            tracker.start_trial(f"t{number}", {TAU_T: tau_t, TAU_S: tau_s})
            test = {"linear_probe/test_top1": val - 1, "linear_probe/test_top1_low": val - 3.2}
            test |= {
                "linear_probe/test_top1_high": val + 1.5,
                "knn/test_top1": val - 5,
                "zero_shot/test_top1": val - 9,
            }
            tracker.log_trial_metrics(
                f"t{number}",
                {"linear_probe/val_top1": val, "train/images_per_second": 1234.5} | test,
                3,
            )
            tracker.end_trial(f"t{number}", "FINISHED")
        tracker.start_trial("t3", {TAU_T: 0.05, TAU_S: 0.1})
        tracker.log_trial_metrics("t3", {"linear_probe/val_top1": 99.0}, 1)
        tracker.end_trial("t3", "FAILED", "the loss became NaN")
        tracker.log_reference(
            "untrained", {}, {"linear_probe/val_top1": 21.0, "linear_probe/test_top1": 20.0}
        )
        tracker.log_reference("teacher", {}, {"zero_shot/test_top1": 60.0})

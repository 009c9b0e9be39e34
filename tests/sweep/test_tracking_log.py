import subprocess
import sys
from dataclasses import replace

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from beamclip.config import Sweep, UserError, choice, load_experiment, with_values
from beamclip.stores.sweep_record import SweepRecord
from beamclip.sweep.tracking_log import open_tracker, write_beginning, write_found, write_summary

TAU_T = "objective.teacher_temperature"


class ProgressBars:
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture
def record(tmp_path):
    base = load_experiment("demo", {"storage.path": str(tmp_path)})
    return SweepRecord(
        Sweep(name="temp", space={TAU_T: choice(0.1, 0.2)}), base, "20260101-000000-0001"
    )


@pytest.fixture
def tracker(record):
    with open_tracker(record, resume=False) as tracker:
        yield tracker


def refuse(*arguments, **options):
    raise MlflowException("the server is gone\nat length")


def finish_trials(tracker):
    for tau in (0.1, 0.2):
        tracker.trial(f"t{tau}", {TAU_T: tau})
        tracker.trial_metrics(
            f"t{tau}", {"linear_probe/val_top1": 40.0 + tau, "linear_probe/test_top1": 40.0}, 1
        )
        tracker.trial_finished(f"t{tau}", "FINISHED")


def test_a_sweep_whose_plots_cannot_be_written_has_ended_all_the_same(record, tracker, monkeypatch):
    finish_trials(tracker)
    monkeypatch.setattr(tracker.client, "log_artifact", refuse)
    bars = ProgressBars()
    assert write_summary(tracker, record, bars)
    assert bars.lines == [
        "beamclip: WARNING: plots and effects can't be written (the server is gone); beamclip report draws them again"
    ]


def test_a_tracker_that_fails_before_the_trials_is_a_sentence(record, tracker, monkeypatch):
    monkeypatch.setattr(tracker.client, "get_run", refuse)
    with pytest.raises(
        UserError,
        match=r"the sweep's run can't be written \(the server is gone\); mend .* and begin again",
    ):
        write_beginning(tracker, record)
    monkeypatch.setattr("beamclip.sweep.tracking_log.write_references", refuse)
    with pytest.raises(
        UserError, match=r"references and anchors can't be written .* go on with --resume"
    ):
        write_found(tracker, record, ProgressBars())


def test_a_run_that_cannot_be_begun_is_a_sentence(record, monkeypatch):
    monkeypatch.setattr(mlflow.MlflowClient, "log_text", refuse)
    with pytest.raises(UserError, match="or choose another with --tracking-uri"):
        open_tracker(record, resume=False)


def test_where_nothing_came_of_any_trial_it_says_so(record, tracker):
    assert not write_summary(tracker, record, ProgressBars())


BEGIN = """
import sys
from beamclip.config import Sweep, load_experiment
from beamclip.logbook import open_tracker
from beamclip.records import SweepRecord

base = load_experiment("demo", {"storage.path": sys.argv[1]})
with open_tracker(SweepRecord(Sweep(name="temp"), base, "20260101-000000-0001"), resume=False):
    pass
"""


@pytest.mark.slow
def test_a_sweep_in_a_moved_storage_writes_where_it_is_now(record, tmp_path):
    subprocess.run(
        [sys.executable, "-c", BEGIN, f"{tmp_path}/old"], check=True
    )  # MLflow remembers in a process where a run's files lie
    (tmp_path / "old").rename(tmp_path / "new")
    base = with_values(record.base, {"storage.path": f"{tmp_path}/new"})
    with open_tracker(replace(record, base=base), resume=True) as tracker:
        tracker.client.log_text(tracker.run_id, "more", "more.txt")
    assert not (tmp_path / "old").exists() and list(
        (tmp_path / "new" / "artifacts").rglob("more.txt")
    )

import json
import subprocess
import sys
from dataclasses import replace

import mlflow
import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from beamclip.config import Sweep, UserError, choice, load_experiment, with_values
from beamclip.stores.sweep_record import SweepRecord
from beamclip.sweep.mlflow_run import (
    open_tracker,
    write_anchors,
    write_preparation,
    write_start,
    write_summary,
)

TAU_T = "objective.teacher_temperature"


class StubBars:
    """Records the lines to print."""

    def __init__(self):
        self.lines = []

    def write(self, text):
        self.lines.append(text)


@pytest.fixture
def record(storage):
    base = load_experiment("demo", {"storage.path": str(storage)})
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
        tracker.start_trial(f"t{tau}", {TAU_T: tau})
        tracker.log_trial_metrics(
            f"t{tau}", {"linear_probe/val_top1": 40.0 + tau, "linear_probe/test_top1": 40.0}, 1
        )
        tracker.end_trial(f"t{tau}", "FINISHED")


def test_plots_that_cannot_be_written_are_a_warning(record, tracker, monkeypatch):
    finish_trials(tracker)
    monkeypatch.setattr(tracker.client, "log_artifact", refuse)
    bars = StubBars()
    assert write_summary(tracker, record, bars)
    (line,) = bars.lines
    assert line == (
        "beamclip: WARNING: plots and effects can't be written (the server is gone); "
        "beamclip report draws them again"
    )


def test_a_tracker_that_fails_before_the_trials_is_an_error(record, tracker, monkeypatch):
    monkeypatch.setattr(tracker.client, "get_run", refuse)
    with pytest.raises(
        UserError,
        match=r"the sweep's run can't be written \(the server is gone\); fix .* and start again",
    ):
        write_start(tracker, record)
    monkeypatch.setattr("beamclip.sweep.mlflow_run.write_references", refuse)
    with pytest.raises(
        UserError, match=r"references and anchors can't be written .* continue with --resume"
    ):
        write_preparation(tracker, record)


@pytest.mark.slow
def test_a_run_that_cannot_be_started_is_an_error(record, monkeypatch):
    monkeypatch.setattr(mlflow.MlflowClient, "log_text", refuse)
    with pytest.raises(UserError, match="or choose another with --tracking-uri"):
        open_tracker(record, resume=False)


def test_the_summary_says_whether_any_trial_has_a_result(record, tracker):
    assert not write_summary(tracker, record, StubBars())


START_SCRIPT = """
import sys
from beamclip.config import Sweep, load_experiment
from beamclip.stores.sweep_record import SweepRecord
from beamclip.sweep.mlflow_run import open_tracker

base = load_experiment("demo", {"storage.path": sys.argv[1]})
with open_tracker(SweepRecord(Sweep(name="temp"), base, "20260101-000000-0001"), resume=False):
    pass
"""


@pytest.mark.slow
def test_a_sweep_in_a_moved_storage_writes_to_its_new_place(record, tmp_path):
    subprocess.run([sys.executable, "-c", START_SCRIPT, f"{tmp_path}/old"], check=True)
    (tmp_path / "old").rename(tmp_path / "new")
    base = with_values(record.base, {"storage.path": f"{tmp_path}/new"})
    with open_tracker(replace(record, base=base), resume=True) as tracker:
        tracker.client.log_text(tracker.run_id, "more", "more.txt")
    assert not (tmp_path / "old").exists() and list(
        (tmp_path / "new" / "artifacts").rglob("more.txt")
    )


class AnchorTracker:
    """Records tables and figures by name."""

    def __init__(self):
        self.tables = {}
        self.figures = {}

    def log_table(self, rows, name):
        self.tables[name] = list(rows)

    def log_figure(self, figure, name):
        self.figures[name] = figure


@pytest.fixture
def logged(tmp_path):
    """`logged([hash, …])`: the tracker of a sweep whose trials use these anchor sets."""

    def call(hashes):
        assets = {}
        for number, key in enumerate(hashes):
            store = tmp_path / key
            store.mkdir(exist_ok=True)
            np.save(store / "anchors.npy", np.eye(3, dtype=np.float32))
            (store / "manifest.json").write_text('{"names": ["moss", "rose", "sand"]}')
            report = {
                "prompt_set": f"set {key}",
                "anchors": 3,
                "prompts": 5,
                "prompts_per_class": [1, 3],
                "bare": 1,
                "shortened": 2,
            }
            report |= {
                "duplicates": 0,
                "near": 1,
                "nearest": [["moss", "sand", 0.96], ["moss", "rose", 0.5]],
                "hash": key,
            }
            facts = {"teacher": "tiny", "anchors": report, "teacher/zero_shot_val_top1": 12.3456}
            assets[str(number)] = json.dumps(
                {
                    "facts": facts,
                    "teachers": [{"anchors": str(store)}, {"anchors": "of another teacher"}],
                }
            )
        tracker = AnchorTracker()
        write_anchors(tracker, SweepRecord(Sweep(name="s"), load_experiment("demo"), "id", assets))
        return tracker

    return call


def test_every_anchor_set_is_in_the_table_once(logged):
    tracker = logged(["a", "b", "a"])
    rows = tracker.tables["anchors.csv"]
    assert [row["hash"] for row in rows] == ["a", "b"]
    assert rows[0] == {
        "teacher": "tiny",
        "prompt_set": "set a",
        "anchors": 3,
        "prompts": 5,
        "prompts_per_class": "1 to 3",
        "bare": 1,
        "shortened": 2,
        "duplicates": 0,
        "near": 1,
        "hash": "a",
        "teacher_zero_shot_val_top1": 12.35,
    }


def test_every_anchor_set_has_a_heat_map_and_its_nearest_pairs(logged):
    tracker = logged(["a", "b"])
    assert sorted(tracker.figures) == ["anchors/a/heat_map.png", "anchors/b/heat_map.png"]
    axes = tracker.figures["anchors/b/heat_map.png"].axes[0]
    assert axes.get_title() == "tiny, set b: cosines of anchors"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["moss", "rose", "sand"]
    pairs = tracker.tables["anchors/a/nearest_pairs.csv"]
    assert pairs[0] == {"class": "moss", "other class": "sand", "cosine": 0.96} and len(pairs) == 2


@pytest.mark.slow
def test_of_many_anchor_sets_the_first_get_a_heat_map(logged):
    tracker = logged([f"bank{number:02}" for number in range(14)])
    assert len(tracker.tables["anchors.csv"]) == 14
    assert sorted(tracker.figures) == [
        f"anchors/bank{number:02}/heat_map.png" for number in range(12)
    ]

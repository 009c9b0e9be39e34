import json
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from beamclip.config import (
    Experiment,
    Sweep,
    UserError,
    choice,
    load_experiment,
    validate,
    with_values,
)
from beamclip.stores.paths import asset_key
from beamclip.stores.sweep_record import SweepRecord
from beamclip.sweep.recorder import Recorder, facts_of

PROMPTS = ("plain", "openai_7")


class StubTracker:
    """Notes what it and its client are told; `free` holds it up, `fail_at` makes so many calls of one kind raise."""

    def __init__(self, fail_at=None, times=10**6, over=()):
        self.calls, self.fail_at, self.times, self.over = [], fail_at, times, over
        self.free = threading.Event()
        self.free.set()
        self.client = SimpleNamespace(log_text=self.note("log_text"))
        for name in ("trial_metrics", "trial_artifact", "trial_finished"):
            setattr(self, name, self.note(name))

    def is_over(self, trial_id):
        return trial_id in self.over

    def trial(self, trial_id, *arguments):
        self.note("trial")(trial_id, *arguments)
        return f"run of {trial_id}"

    def note(self, name):
        def call(*arguments):
            assert self.free.wait(10)
            if name == self.fail_at and self.times > 0:
                self.times -= 1
                raise RuntimeError("the server is gone")
            self.calls.append((name, *arguments))

        return call

    def told(self, name):
        return [call for call in self.calls if call[0] == name]


class StubBars:
    def __init__(self):
        self.moves, self.lines, self.notes = [], [], []

    def __call__(self, label, done, total):
        self.moves.append((done, total))

    def say(self, text):
        self.lines.append(text)

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def record():
    base = load_experiment("demo", {"optimiser.epochs": 3})
    sweep = Sweep(name="s", space={"anchors.prompt_set": choice(*PROMPTS)})
    keys = {
        prompts: asset_key(with_values(base, {"anchors.prompt_set": prompts}))
        for prompts in PROMPTS
    }
    facts = {
        p: {
            "data_key": f"data of {p}",
            "teacher_fingerprint": "t",
            "anchors": {"hash": f"anchors of {p}"},
        }
        for p in PROMPTS
    }
    return SweepRecord(
        sweep, base, "id", {key: json.dumps({"facts": facts[p]}) for p, key in keys.items()}
    )


@pytest.fixture
def recorder(record):
    return Recorder(record, StubTracker(), StubBars())


def test_everything_is_written_in_the_order_it_happened(recorder):
    recorder.started("a", {"anchors.prompt_set": "plain"})
    recorder.reported(
        "a",
        {
            "epoch": 1,
            "train/loss": 2.0,
            "history": [("train/loss", 3.0, 5)],
            "config": {},
            "pid": 3,
        },
    )
    recorder.started("b", {"anchors.prompt_set": "openai_7"})
    recorder.ended("a", "FINISHED", None)
    recorder.ended("b", "FAILED", "no luck")
    recorder.close()
    calls = [call for call in recorder.tracker.calls if call[0] != "log_text"]
    assert [(call[0], call[1]) for call in calls] == [
        ("trial", "a"), ("trial_metrics", "a"), ("trial", "b"), ("trial_finished", "a"), ("trial_finished", "b"),
    ]  # fmt: skip
    _, _, metrics, step, history = calls[1]
    assert (metrics, step) == ({"train/loss": 2.0}, 1)
    assert [point[:3] for point in history] == [("train/loss", 3.0, 5)]
    assert calls[4][2:] == ("FAILED", "no luck")
    assert recorder.bars.lines == ["trial b failed: no luck"]


def test_a_trial_is_tagged_with_its_own_stores(recorder):
    for prompts in PROMPTS:
        recorder.started(prompts, {"anchors.prompt_set": prompts})
    recorder.close()
    trials = recorder.tracker.told("trial")
    assert [call[4]["data_key"] for call in trials] == ["data of plain", "data of openai_7"]
    assert [call[4]["anchors_hash"] for call in trials] == [
        "anchors of plain",
        "anchors of openai_7",
    ]
    assert [call[3].anchors.prompt_set for call in trials] == list(PROMPTS)
    assert facts_of(recorder.record)["data_key"] == "data of plain"


def test_a_trials_own_settings_and_anchors_are_kept_with_it(recorder):
    recorder.started("a", {"anchors.prompt_set": "plain"})
    recorder.close()
    settings, anchors = recorder.tracker.told("log_text")
    assert [(call[1], call[3]) for call in (settings, anchors)] == [
        ("run of a", "config.yaml"),
        ("run of a", "anchors.json"),
    ]
    assert json.loads(anchors[2]) == {"hash": "anchors of plain"}
    text = settings[2]
    assert validate(Experiment, yaml.safe_load(text)) == with_values(
        recorder.record.base, {"anchors.prompt_set": "plain"}
    )


def test_a_slow_tracker_keeps_nobody_waiting(recorder):
    recorder.tracker.free.clear()
    start = time.perf_counter()
    recorder.started("a", {})
    for epoch in range(100):
        recorder.reported("a", {"epoch": epoch, "train/loss": 1.0})
    assert time.perf_counter() - start < 1
    assert recorder.tracker.calls == []
    recorder.tracker.free.set()
    recorder.close()
    assert [call[3] for call in recorder.tracker.told("trial_metrics")] == list(range(100))


def test_metrics_are_dated_when_they_were_reported_not_when_they_were_written(recorder):
    recorder.tracker.free.clear()
    before = int(time.time() * 1000)
    recorder.reported("a", {"epoch": 1, "history": [("train/loss", 1.0, 1)]})
    after = int(time.time() * 1000)
    time.sleep(0.05)
    recorder.tracker.free.set()
    recorder.close()
    assert before <= recorder.tracker.calls[0][4][0][3] <= after


def test_what_the_tracker_goes_on_to_raise_surfaces_at_the_end_and_is_said_at_once(record):
    recorder = Recorder(record, StubTracker(fail_at="trial_metrics"), StubBars())
    recorder.started("a", {})
    recorder.reported("a", {"epoch": 1})
    recorder.ended("a", "FINISHED", None)
    with pytest.raises(UserError, match=r"the server is gone; mend .* --resume"):
        recorder.close()
    assert [call[0] for call in recorder.tracker.calls] == ["trial", "log_text", "log_text"]
    assert recorder.bars.lines == [
        "results can't be written for now (the server is gone); they are kept and tried again"
    ]


def test_an_interrupted_sweep_does_not_wait_for_a_tracker_that_does_not_answer(record, monkeypatch):
    monkeypatch.setattr("beamclip.sweep.recorder._HURRIED", 0.1)
    recorder = Recorder(record, StubTracker(), StubBars())
    recorder.tracker.free.clear()
    recorder.started("a", {})
    recorder.close(ended=False)
    assert recorder.bars.lines[-1].startswith(
        "beamclip: WARNING: results can't be written any more: it does not answer; mend the"
    )
    recorder.tracker.free.set()


@pytest.mark.parametrize("what", ["trial", "log_text", "trial_metrics", "trial_finished"])
def test_a_tracker_that_fails_once_loses_nothing(record, what):
    recorder = Recorder(record, StubTracker(fail_at=what, times=1), StubBars())
    for trial_id in "ab":
        recorder.started(trial_id, {"anchors.prompt_set": "plain"})
        recorder.reported(trial_id, {"epoch": 1})
        recorder.ended(trial_id, "FINISHED", None)
    recorder.close()
    for trial_id in "ab":
        calls = [
            call[0]
            for call in recorder.tracker.calls
            if call[0] != "log_text" and call[1] == trial_id
        ]
        assert [name for name in calls if name != "trial"] == [
            "trial_metrics",
            "trial_finished",
        ] and calls[0] == "trial"
    assert recorder.bars.lines[-1] == "results are written again, and none is lost"


def test_what_an_earlier_session_could_not_write_is_made_up_for(record, tmp_path):
    (tmp_path / "student.safetensors").touch()
    result = {
        "values": {"anchors.prompt_set": "plain"},
        "epoch": 3,
        "linear_probe/test_top1": 5.0,
        "timestamp": 7,
    }
    result |= {"checkpoint_path": str(tmp_path), "history": [("train/loss", 1.0, 1)]}
    recorder = Recorder(record, StubTracker(over=("a",)), StubBars())
    recorder.on_restore({"a": result, "b": result, "c": {**result, "failure": "no number"}})
    recorder.close()
    calls = [call for call in recorder.tracker.calls if call[0] != "log_text"]
    names = ["trial", "trial_metrics", "trial_artifact", "trial_finished"]
    assert [call[:2] for call in calls] == [(name, trial_id) for trial_id in "bc" for name in names]
    assert calls[1][2:] == ({"linear_probe/test_top1": 5.0}, 3, [("train/loss", 1.0, 1, 7000)])
    assert [call[2:] for call in recorder.tracker.told("trial_finished")] == [
        ("FINISHED", None),
        ("FAILED", "no number"),
    ]


def test_the_bar_counts_epochs_and_evaluations_of_all_trials(recorder):
    recorder.reported("a", {"epoch": 1})
    recorder.reported("b", {"epoch": 2})
    recorder.reported("b", {"epoch": 3, "linear_probe/test_top1": 5.0})
    recorder.ended("a", "FINISHED", None)  # stopped early: what it left out is over, too
    recorder.close()
    assert recorder.bars.moves == [(1, 8), (3, 8), (5, 8), (8, 8)]


def test_what_an_earlier_session_finished_counts_and_the_bar_is_there_from_the_start(recorder):
    recorder.on_restore({"a": {"values": {"anchors.prompt_set": "plain"}}})
    recorder.started("b", {"anchors.prompt_set": "plain"})
    recorder.reported("b", {"epoch": 1})
    recorder.close()
    assert recorder.bars.moves == [(4, 8), (5, 8)]
    assert recorder.bars.notes == ["2 of 2 trials begun"]


KEPT = ["student.safetensors", "probe.safetensors", "evaluation.json", "predictions.safetensors"]


@pytest.mark.parametrize("files", [KEPT, KEPT[:2]], ids=["all", "an earlier version's"])
@pytest.mark.parametrize("root", ["/runs", "file:///runs", "s3://bucket/runs"])
def test_what_the_last_report_left_is_kept(record, bucket, root, files):
    folder = bucket / "runs" / "checkpoint"
    folder.mkdir(parents=True)
    for name in (*files, "state.pt"):
        (folder / name).touch()
    path = (
        "bucket/runs/checkpoint" if root.startswith("s3:") else str(folder)
    )  # as Ray says it, which never names a scheme
    stored = replace(
        record,
        base=with_values(record.base, {"storage.path": root, "tracking.uri": "http://server"}),
    )
    recorder = Recorder(stored, StubTracker(), StubBars())
    recorder.reported("a", {"epoch": 2, "checkpoint_path": path})
    recorder.reported("a", {"epoch": 3, "checkpoint_path": path, "linear_probe/test_top1": 5.0})
    recorder.close()
    assert [call[2].name for call in recorder.tracker.told("trial_artifact")] == files
    assert recorder.bars.lines == []


def test_where_nothing_lies_that_could_be_kept_it_is_said(recorder, tmp_path):
    recorder.reported(
        "a", {"epoch": 3, "checkpoint_path": str(tmp_path), "linear_probe/test_top1": 5.0}
    )
    recorder.close()
    assert recorder.bars.lines == [
        f"beamclip: WARNING: no student lies in {tmp_path}, so that MLflow keeps none of trial a"
    ]

import json
import threading
import time
from dataclasses import replace

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
from beamclip.distributed.listener import RestoredTrial
from beamclip.stores.paths import asset_key
from beamclip.stores.sweep_record import SweepRecord
from beamclip.sweep.asset_facts import AssetFacts
from beamclip.sweep.recorder import Recorder

PROMPTS = ("plain", "openai_7")


class StubTracker:
    """Records the calls of its methods.

    Args:
        fail_at: name of the method that raises.
        times: how often it raises.
        ended: ids of trials whose final status is written.
    """

    def __init__(self, fail_at=None, times=10**6, ended=()):
        self.calls = []
        self.fail_at = fail_at
        self.times = times
        self.ended = ended
        # Cleared to make all calls wait.
        self.answers = threading.Event()
        self.answers.set()
        for name in (
            "start_trial",
            "log_trial_metrics",
            "log_trial_artifact",
            "log_trial_text",
            "end_trial",
        ):
            setattr(self, name, self.make_method(name))

    def has_ended(self, trial_id):
        return trial_id in self.ended

    def make_method(self, name):
        def method(*arguments):
            assert self.answers.wait(10)
            if name == self.fail_at and self.times > 0:
                self.times -= 1
                raise RuntimeError("the server is gone")
            self.calls.append((name, *arguments))

        return method

    def calls_of(self, name):
        return [call for call in self.calls if call[0] == name]

    def calls_without_texts(self):
        return [call for call in self.calls if call[0] != "log_trial_text"]


class StubBars:
    """Records progress and lines to print."""

    def __init__(self):
        self.positions = []
        self.lines = []
        self.postfixes = []

    def __call__(self, label, done, total):
        self.positions.append((done, total))

    def write(self, text):
        self.lines.append(text)

    def set_postfix(self, text):
        self.postfixes.append(text)


@pytest.fixture
def record():
    base = load_experiment("demo", {"optimizer.epochs": 3})
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
    recorder.on_trial_start("a", {"anchors.prompt_set": "plain"})
    recorder.on_trial_result(
        "a",
        {
            "epoch": 1,
            "train/loss": 2.0,
            "history": [("train/loss", 3.0, 5)],
            "config": {},
            "pid": 3,
        },
    )
    recorder.on_trial_start("b", {"anchors.prompt_set": "openai_7"})
    recorder.on_trial_end("a", "FINISHED", None)
    recorder.on_trial_end("b", "FAILED", "no luck")
    recorder.close()
    calls = recorder.tracker.calls_without_texts()
    assert [(call[0], call[1]) for call in calls] == [
        ("start_trial", "a"),
        ("log_trial_metrics", "a"),
        ("start_trial", "b"),
        ("end_trial", "a"),
        ("end_trial", "b"),
    ]
    _, _, metrics, step, history = calls[1]
    assert (metrics, step) == ({"train/loss": 2.0}, 1)
    assert [point[:3] for point in history] == [("train/loss", 3.0, 5)]
    assert calls[4][2:] == ("FAILED", "no luck")
    assert recorder.bars.lines == ["trial b failed: no luck"]


def test_a_trial_is_tagged_with_its_own_stores(recorder):
    for prompts in PROMPTS:
        recorder.on_trial_start(prompts, {"anchors.prompt_set": prompts})
    recorder.close()
    trials = recorder.tracker.calls_of("start_trial")
    assert [call[4]["data_key"] for call in trials] == ["data of plain", "data of openai_7"]
    assert [call[4]["anchors_hash"] for call in trials] == [
        "anchors of plain",
        "anchors of openai_7",
    ]
    assert [call[3].anchors.prompt_set for call in trials] == list(PROMPTS)
    first_assets = next(iter(recorder.record.assets.values()))
    assert AssetFacts(first_assets).data_key == "data of plain"


def test_the_settings_and_anchors_of_a_trial_are_kept_in_its_run(recorder):
    recorder.on_trial_start("a", {"anchors.prompt_set": "plain"})
    recorder.close()
    settings, anchors = recorder.tracker.calls_of("log_trial_text")
    assert [(call[1], call[3]) for call in (settings, anchors)] == [
        ("a", "config.yaml"),
        ("a", "anchors.json"),
    ]
    assert json.loads(anchors[2]) == {"hash": "anchors of plain"}
    text = settings[2]
    assert validate(Experiment, yaml.safe_load(text)) == with_values(
        recorder.record.base, {"anchors.prompt_set": "plain"}
    )


def test_events_do_not_wait_for_a_slow_tracker(recorder):
    recorder.tracker.answers.clear()
    start = time.perf_counter()
    recorder.on_trial_start("a", {})
    for epoch in range(100):
        recorder.on_trial_result("a", {"epoch": epoch, "train/loss": 1.0})
    assert time.perf_counter() - start < 1
    assert recorder.tracker.calls == []
    recorder.tracker.answers.set()
    recorder.close()
    assert [call[3] for call in recorder.tracker.calls_of("log_trial_metrics")] == list(range(100))


def test_metrics_are_dated_when_they_were_reported_not_when_they_were_written(recorder):
    recorder.tracker.answers.clear()
    before = int(time.time() * 1000)
    recorder.on_trial_result("a", {"epoch": 1, "history": [("train/loss", 1.0, 1)]})
    after = int(time.time() * 1000)
    time.sleep(0.05)
    recorder.tracker.answers.set()
    recorder.close()
    assert before <= recorder.tracker.calls[0][4][0][3] <= after


def test_a_lasting_error_of_the_tracker_is_printed_at_once_and_raised_at_the_end(record):
    recorder = Recorder(record, StubTracker(fail_at="log_trial_metrics"), StubBars())
    recorder.on_trial_start("a", {})
    recorder.on_trial_result("a", {"epoch": 1})
    recorder.on_trial_end("a", "FINISHED", None)
    with pytest.raises(UserError, match=r"the server is gone; fix .* --resume"):
        recorder.close()
    assert [call[0] for call in recorder.tracker.calls] == [
        "start_trial",
        "log_trial_text",
        "log_trial_text",
    ]
    assert recorder.bars.lines == [
        "results can't be written for now (the server is gone); they are kept and tried again"
    ]


def test_an_interrupted_sweep_does_not_wait_for_a_tracker_that_does_not_answer(record, monkeypatch):
    monkeypatch.setattr("beamclip.sweep.recorder._INTERRUPTED_TIMEOUT", 0.1)
    recorder = Recorder(record, StubTracker(), StubBars())
    recorder.tracker.answers.clear()
    recorder.on_trial_start("a", {})
    recorder.close(ended=False)
    assert recorder.bars.lines[-1].startswith(
        "beamclip: WARNING: results can't be written any more: it does not answer; fix the"
    )
    recorder.tracker.answers.set()


@pytest.mark.parametrize(
    "method", ["start_trial", "log_trial_text", "log_trial_metrics", "end_trial"]
)
def test_a_tracker_that_fails_once_loses_nothing(record, method):
    recorder = Recorder(record, StubTracker(fail_at=method, times=1), StubBars())
    for trial_id in "ab":
        recorder.on_trial_start(trial_id, {"anchors.prompt_set": "plain"})
        recorder.on_trial_result(trial_id, {"epoch": 1})
        recorder.on_trial_end(trial_id, "FINISHED", None)
    recorder.close()
    for trial_id in "ab":
        names = [
            name for name, *rest in recorder.tracker.calls_without_texts() if rest[0] == trial_id
        ]
        assert names[0] == "start_trial"
        assert [name for name in names if name != "start_trial"] == [
            "log_trial_metrics",
            "end_trial",
        ]
    assert recorder.bars.lines[-1] == "results are written again, and none is lost"


def test_results_that_an_earlier_session_could_not_write_are_written(record, tmp_path):
    (tmp_path / "student.safetensors").touch()
    values = {"anchors.prompt_set": "plain"}
    report = {
        "epoch": 3,
        "linear_probe/test_top1": 5.0,
        "timestamp": 7,
        "checkpoint_path": str(tmp_path),
        "history": [("train/loss", 1.0, 1)],
    }
    finished = RestoredTrial(values, report)
    failed = RestoredTrial(values, {**report, "failure": "no number"})
    recorder = Recorder(record, StubTracker(ended=("a",)), StubBars())
    recorder.on_restore({"a": finished, "b": finished, "c": failed})
    recorder.close()
    calls = recorder.tracker.calls_without_texts()
    names = ["start_trial", "log_trial_metrics", "log_trial_artifact", "end_trial"]
    assert [call[:2] for call in calls] == [(name, trial_id) for trial_id in "bc" for name in names]
    assert calls[1][2:] == ({"linear_probe/test_top1": 5.0}, 3, [("train/loss", 1.0, 1, 7000)])
    assert [call[2:] for call in recorder.tracker.calls_of("end_trial")] == [
        ("FINISHED", None),
        ("FAILED", "no number"),
    ]


def test_the_bar_counts_epochs_and_evaluations_of_all_trials(recorder):
    recorder.on_trial_result("a", {"epoch": 1})
    recorder.on_trial_result("b", {"epoch": 2})
    recorder.on_trial_result("b", {"epoch": 3, "linear_probe/test_top1": 5.0})
    # Stopped early: the epochs it skipped count as done.
    recorder.on_trial_end("a", "FINISHED", None)
    recorder.close()
    assert recorder.bars.positions == [(1, 8), (3, 8), (5, 8), (8, 8)]


def test_trials_of_an_earlier_session_count_from_the_start(recorder):
    recorder.on_restore({"a": RestoredTrial({"anchors.prompt_set": "plain"})})
    recorder.on_trial_start("b", {"anchors.prompt_set": "plain"})
    recorder.on_trial_result("b", {"epoch": 1})
    recorder.close()
    assert recorder.bars.positions == [(4, 8), (5, 8)]
    assert recorder.bars.postfixes == ["2 of 2 trials begun"]


KEPT = ["student.safetensors", "probe.safetensors", "evaluation.json", "predictions.safetensors"]


@pytest.mark.parametrize("files", [KEPT, KEPT[:2]], ids=["all", "an earlier version's"])
@pytest.mark.parametrize("root", ["/runs", "file:///runs", "s3://bucket/runs"])
def test_the_files_of_the_last_report_are_kept(record, bucket, root, files):
    folder = bucket / "runs" / "checkpoint"
    folder.mkdir(parents=True)
    for name in (*files, "state.pt"):
        (folder / name).touch()
    # Ray's paths have no scheme.
    path = "bucket/runs/checkpoint" if root.startswith("s3:") else str(folder)
    stored = replace(
        record,
        base=with_values(record.base, {"storage.path": root, "tracking.uri": "http://server"}),
    )
    recorder = Recorder(stored, StubTracker(), StubBars())
    recorder.on_trial_result("a", {"epoch": 2, "checkpoint_path": path})
    recorder.on_trial_result(
        "a", {"epoch": 3, "checkpoint_path": path, "linear_probe/test_top1": 5.0}
    )
    recorder.close()
    assert [call[2].name for call in recorder.tracker.calls_of("log_trial_artifact")] == files
    assert recorder.bars.lines == []


def test_a_missing_student_is_a_warning(recorder, tmp_path):
    recorder.on_trial_result(
        "a", {"epoch": 3, "checkpoint_path": str(tmp_path), "linear_probe/test_top1": 5.0}
    )
    recorder.close()
    assert recorder.bars.lines == [
        f"beamclip: WARNING: there is no student in {tmp_path}, so MLflow keeps none of trial a"
    ]

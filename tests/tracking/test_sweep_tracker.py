import math

import mlflow
import pytest
import yaml
from matplotlib.figure import Figure
from mlflow.exceptions import MlflowException

from beamclip.config import Experiment, Sweep, UserError, choice, flatten, validate
from beamclip.tracking import SweepTracker
from beamclip.tracking.client import search_all
from beamclip.tracking.serialize import space_params

TAU_T, TAU_S = "objective.teacher_temperature", "objective.student_temperature"
CELL = {TAU_T: 0.05, TAU_S: 0.1}


def children(tracker):
    runs = search_all(
        tracker.client, tracker.experiment_id, f"tags.`mlflow.parentRunId` = '{tracker.run_id}'"
    )
    return {run.info.run_id: run for run in runs}


def read(tracker, run_id):
    return tracker.client.get_run(run_id)


def test_the_parent_says_what_was_asked_and_how(opened, base, tmp_path):
    tracker = opened(tags={"dataset": "tiny"})
    data = read(tracker, tracker.run_id).data
    wanted = {
        "kind": "sweep",
        "source": "measured",
        "beamclip.sweep_id": "s1",
        "question": "which temperature?",
    }
    wanted |= {
        "method": "csm",
        "dataset": "tiny",
        "teacher": "demo",
        "student": "resnet18",
        "prompt_set": "openai_7",
    }
    assert wanted.items() <= data.tags.items()
    assert set(flatten(base.model_dump())) <= set(data.params)
    assert data.params[f"space.{TAU_T}"] == '{"kind": "choice", "values": [0.02, 0.05]}'
    assert data.params["objective.teacher_temperature"] == "0.05"
    text = mlflow.artifacts.load_text(
        f"{tmp_path}/artifacts/temp/{tracker.run_id}/artifacts/config.yaml"
    )
    assert validate(Experiment, yaml.safe_load(text)) == base


def test_the_parent_says_what_each_variant_is():
    variants = {"a": {"objective.name": "simreg"}, "b": {"student.init": "variant:a"}}
    said = space_params(Sweep(name="s", variants=variants, space={"variant": choice("a", "b")}))
    assert said["variant.a"] == '{"objective.name": "simreg"}'
    assert said["variant.b"] == '{"student.init": "variant:a"}'


def test_a_trial_hangs_one_level_below_its_sweep_and_carries_its_settings(opened):
    tracker = opened(tags={"dataset": "tiny"})
    trial = read(tracker, tracker.trial("t0", CELL))
    assert trial.info.run_name == "τ_T=0.05 τ_S=0.1"
    assert trial.data.params[TAU_S] == "0.1"
    wanted = {
        "mlflow.parentRunId": tracker.run_id,
        "beamclip.trial_id": "t0",
        "kind": "trial",
        "method": "csm",
    }
    assert wanted.items() <= trial.data.tags.items()
    assert trial.data.tags["dataset"] == "tiny"
    assert trial.data.tags["question"] == "which temperature?"
    assert "mlflow" in trial.data.tags["versions"]


def test_what_the_sweep_varies_is_a_tag_of_the_trial_and_varied_on_the_parent(uri, base):
    sweep = Sweep(name="prompts", space={"anchors.prompt_set": choice("plain", "openai_80")})
    tracker = SweepTracker.open(uri, None, sweep, base, "s1")
    assert read(tracker, tracker.run_id).data.tags["prompt_set"] == "varied"
    trial = read(tracker, tracker.trial("t0", {"anchors.prompt_set": "plain"}))
    assert trial.data.tags["prompt_set"] == "plain"


def test_a_resumed_sweep_goes_on_in_the_same_runs(opened):
    before = opened()
    first = before.trial("t0", CELL)
    before.trial_metrics("t0", {"train/loss": 2.0}, 1)
    before.reference("untrained", {}, {"linear_probe/test_top1": 20.0})
    before.trial_finished("t0", "FAILED", "node lost")  # then the driver is killed: no close

    after = opened(resume=True)
    assert after.run_id == before.run_id
    assert after.trial("t0", CELL) == first
    assert read(after, first).info.status == "RUNNING"
    assert "beamclip.error" not in read(after, first).data.tags
    after.reference("untrained", {}, {"linear_probe/test_top1": 20.0})
    after.trial_metrics("t0", {"train/loss": 1.0}, 2)
    after.trial_finished("t0", "FINISHED")
    after.close()
    assert [m.value for m in after.client.get_metric_history(first, "train/loss")] == [2.0, 1.0]
    assert len(children(after)) == 2
    assert {run.info.status for run in children(after).values()} == {"FINISHED"}


def test_params_that_a_kill_left_unwritten_are_written_after_the_resume(opened, monkeypatch):
    before = opened()
    with monkeypatch.context() as patch:
        patch.setattr(
            before.client, "log_batch", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            before.trial("t0", CELL)
    after = opened(resume=True)
    assert read(after, after.trial("t0", CELL)).data.params[TAU_S] == "0.1"


def test_the_same_sweep_twice_without_resume_is_refused(opened):
    opened()
    with pytest.raises(UserError, match="--resume"):
        opened()
    assert opened("s2").run_id


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (RuntimeError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED")],
)
def test_statuses_are_true_whatever_ends_the_sweep(opened, error, status):
    tracker = opened()
    done, running = tracker.trial("done", CELL), tracker.trial("running", CELL)
    tracker.trial_finished("done", "FINISHED")
    with pytest.raises(type(error)) if error else pytest.MonkeyPatch.context(), tracker:
        if error:
            raise error
    tracker.close("FAILED")  # a second close changes nothing
    assert read(tracker, tracker.run_id).info.status == status
    assert read(tracker, done).info.status == "FINISHED"
    assert read(tracker, running).info.status == "KILLED"


def _gone(*arguments, **named):
    raise MlflowException("API request to http://x failed with exception: refused\nat length")


def test_a_server_that_is_gone_at_the_end_is_a_sentence(opened, monkeypatch):
    tracker = opened()
    monkeypatch.setattr(tracker.client, "set_terminated", _gone)
    with (
        pytest.raises(
            UserError,
            match=r"how the sweep ended can't be written \(API .* refused\); mend .* --resume",
        ),
        tracker,
    ):
        tracker.trial("t0", CELL)


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), UserError("mend it"), KeyboardInterrupt("what to type")]
)
def test_a_server_that_is_gone_hides_nothing_that_went_wrong_before(opened, monkeypatch, error):
    tracker = opened()
    monkeypatch.setattr(tracker.client, "set_terminated", _gone)
    with pytest.raises(type(error), match=str(error)), tracker:
        raise error


def test_a_trial_is_over_once_it_is_written_how_it_ended(opened):
    tracker = opened()
    for name, status in (("t0", "FINISHED"), ("t1", "FAILED"), ("t2", "KILLED"), ("t3", None)):
        tracker.trial(name, CELL)
        if status is not None:
            tracker.trial_finished(name, status)
    assert [tracker.is_over(name) for name in ("t0", "t1", "t2", "t3", "t4")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_trials_that_a_killed_driver_left_running_are_killed_by_the_one_that_resumes(opened):
    left = opened().trial("t0", CELL)
    after = opened(resume=True)
    after.close()
    assert read(after, left).info.status == "KILLED"


def test_long_histories_and_long_params_fit_mlflows_limits(opened, base):
    tracker = opened()
    wide = base.model_copy(
        update={"probe": base.probe.model_copy(update={"inverse_l2": (1.0,) * 3000})}
    )
    run_id = tracker.trial("t0", CELL, wide)
    history = [
        ("train/loss", 1.0 / step, step, 1_700_000_000_000 + step) for step in range(1, 2301)
    ]
    tracker.trial_metrics("t0", {"knn/test_top1": 50.0}, 2300, history)
    assert len(tracker.client.get_metric_history(run_id, "train/loss")) == 2300
    assert len(read(tracker, run_id).data.params["probe.inverse_l2"]) == 6000


def test_the_same_history_delivered_twice_is_kept_once(opened):
    tracker = opened()
    run_id = tracker.trial("t0", CELL)
    for _ in range(2):
        tracker.trial_metrics("t0", {}, 1, [("train/loss", 1.5, 1, 1_700_000_000_000)])
    assert len(tracker.client.get_metric_history(run_id, "train/loss")) == 1


def test_numbers_that_are_not_finite_are_noted_and_not_charted(opened):
    tracker = opened()
    run_id = tracker.trial("t0", CELL)
    tracker.trial_metrics(
        "t0", {"train/loss": math.nan, "knn/test_top1": 3.0, "zero_shot/test_top1": math.inf}, 7
    )
    data = read(tracker, run_id).data
    assert data.metrics == {"knn/test_top1": 3.0}
    assert data.tags["beamclip.non_finite"] == "train/loss was nan at step 7"


def test_a_reference_is_written_once_for_each_student(opened):
    tracker = opened()
    one = tracker.reference("untrained", {}, {"linear_probe/test_top1": 20.0})
    assert tracker.reference("untrained", {}, {"linear_probe/test_top1": 20.0}) == one
    assert (
        tracker.reference("untrained", {"student": "resnet34"}, {"linear_probe/test_top1": 22.0})
        != one
    )
    data = read(tracker, one).data
    assert data.tags["method"] == "untrained"
    assert data.tags["mlflow.parentRunId"] == tracker.run_id
    assert data.metrics == {"linear_probe/test_top1": 20.0}


def test_files_figures_and_tables_arrive(opened, tmp_path):
    tracker = opened()
    run_id = tracker.trial("t0", CELL)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "student.txt").write_text("weights")
    tracker.trial_artifact("t0", tmp_path / "out", "export")
    tracker.trial_artifact("t0", tmp_path / "out" / "student.txt")
    assert {a.path for a in tracker.client.list_artifacts(run_id)} == {"export", "student.txt"}
    tracker.log_figure(Figure(), "plot.png")
    for _ in range(2):
        tracker.log_table([{"a": 1}, {"a": 2, "b": 3}], "results.csv")
    assert {a.path for a in tracker.client.list_artifacts(tracker.run_id)} == {
        "config.yaml",
        "plot.png",
        "results.csv",
    }
    path = f"{tmp_path}/artifacts/temp/{tracker.run_id}/artifacts/results.csv"
    assert mlflow.artifacts.load_text(path) == "a,b\n1,\n2,3\n"


def test_no_global_run_is_ever_active(finished):
    assert mlflow.active_run() is None

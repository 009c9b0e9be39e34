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
VALUES = {TAU_T: 0.05, TAU_S: 0.1}


def children(tracker):
    runs = search_all(
        tracker.client, tracker.experiment_id, f"tags.`mlflow.parentRunId` = '{tracker.run_id}'"
    )
    return {run.info.run_id: run for run in runs}


def read(tracker, run_id):
    return tracker.client.get_run(run_id)


def test_the_sweeps_run_has_its_question_settings_and_space(opened, base, tmp_path):
    tracker = opened(tags={"dataset": "tiny"})
    data = read(tracker, tracker.run_id).data
    expected = {
        "kind": "sweep",
        "source": "measured",
        "beamclip.sweep_id": "s1",
        "question": "which temperature?",
    }
    expected |= {
        "method": "csm",
        "dataset": "tiny",
        "teacher": "demo",
        "student": "resnet18",
        "prompt_set": "openai_7",
    }
    assert expected.items() <= data.tags.items()
    keys = set(flatten(base.model_dump())) - {"objective.code"}  # a text, kept in config.yaml
    assert keys <= set(data.params)
    assert data.params[f"space.{TAU_T}"] == '{"kind": "choice", "values": [0.02, 0.05]}'
    assert data.params["objective.teacher_temperature"] == "0.05"
    text = mlflow.artifacts.load_text(
        f"{tmp_path}/artifacts/temp/{tracker.run_id}/artifacts/config.yaml"
    )
    assert validate(Experiment, yaml.safe_load(text)) == base


def test_variants_are_params_of_the_sweep():
    variants = {"a": {"objective.name": "simreg"}, "b": {"student.init": "variant:a"}}
    params = space_params(Sweep(name="s", variants=variants, space={"variant": choice("a", "b")}))
    assert params["variant.a"] == '{"objective.name": "simreg"}'
    assert params["variant.b"] == '{"student.init": "variant:a"}'


def test_a_trial_s_run_is_a_child_of_the_sweep_s_and_has_its_settings(opened):
    tracker = opened(tags={"dataset": "tiny"})
    trial = read(tracker, tracker.start_trial("t0", VALUES))
    assert trial.info.run_name == "τ_T=0.05 τ_S=0.1"
    assert trial.data.params[TAU_S] == "0.1"
    expected = {
        "mlflow.parentRunId": tracker.run_id,
        "beamclip.trial_id": "t0",
        "kind": "trial",
        "method": "csm",
    }
    assert expected.items() <= trial.data.tags.items()
    assert trial.data.tags["dataset"] == "tiny"
    assert trial.data.tags["question"] == "which temperature?"
    assert "mlflow" in trial.data.tags["versions"]


def test_a_varied_setting_is_a_tag_of_the_trial_and_varied_on_the_sweep(uri, base):
    sweep = Sweep(name="prompts", space={"anchors.prompt_set": choice("plain", "openai_80")})
    tracker = SweepTracker.open(uri, None, sweep, base, "s1")
    assert read(tracker, tracker.run_id).data.tags["prompt_set"] == "varied"
    trial = read(tracker, tracker.start_trial("t0", {"anchors.prompt_set": "plain"}))
    assert trial.data.tags["prompt_set"] == "plain"


def test_a_resumed_sweep_continues_in_the_same_runs(opened):
    before = opened()
    first = before.start_trial("t0", VALUES)
    before.log_trial_metrics("t0", {"train/loss": 2.0}, 1)
    before.log_reference("untrained", {}, {"linear_probe/test_top1": 20.0})
    before.end_trial("t0", "FAILED", "node lost")  # then the driver is killed: no close

    after = opened(resume=True)
    assert after.run_id == before.run_id
    assert after.start_trial("t0", VALUES) == first
    assert read(after, first).info.status == "RUNNING"
    assert "beamclip.error" not in read(after, first).data.tags
    after.log_reference("untrained", {}, {"linear_probe/test_top1": 20.0})
    after.log_trial_metrics("t0", {"train/loss": 1.0}, 2)
    after.end_trial("t0", "FINISHED")
    after.close()
    assert [m.value for m in after.client.get_metric_history(first, "train/loss")] == [2.0, 1.0]
    assert len(children(after)) == 2
    assert {run.info.status for run in children(after).values()} == {"FINISHED"}


def test_params_that_were_not_written_before_a_kill_are_written_on_resume(opened, monkeypatch):
    before = opened()
    with monkeypatch.context() as patch:
        patch.setattr(
            before.client, "log_batch", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            before.start_trial("t0", VALUES)
    after = opened(resume=True)
    assert read(after, after.start_trial("t0", VALUES)).data.params[TAU_S] == "0.1"


def test_the_same_sweep_twice_without_resume_is_refused(opened):
    opened()
    with pytest.raises(UserError, match="--resume"):
        opened()
    assert opened("s2").run_id


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (RuntimeError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED")],
)
def test_statuses_are_correct_however_the_sweep_ends(opened, error, status):
    tracker = opened()
    done = tracker.start_trial("done", VALUES)
    running = tracker.start_trial("running", VALUES)
    tracker.end_trial("done", "FINISHED")
    with pytest.raises(type(error)) if error else pytest.MonkeyPatch.context(), tracker:
        if error:
            raise error
    tracker.close("FAILED")  # a second close changes nothing
    assert read(tracker, tracker.run_id).info.status == status
    assert read(tracker, done).info.status == "FINISHED"
    assert read(tracker, running).info.status == "KILLED"


def _raise_mlflow_error(*arguments, **named):
    raise MlflowException("API request to http://x failed with exception: refused\nat length")


def test_a_server_that_fails_at_the_end_is_an_error(opened, monkeypatch):
    tracker = opened()
    monkeypatch.setattr(tracker.client, "set_terminated", _raise_mlflow_error)
    with (
        pytest.raises(
            UserError,
            match=r"the sweep's final status can't be written \(API .* refused\); fix .* --resume",
        ),
        tracker,
    ):
        tracker.start_trial("t0", VALUES)


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), UserError("fix it"), KeyboardInterrupt("what to type")]
)
def test_a_server_that_fails_at_the_end_hides_no_earlier_error(opened, monkeypatch, error):
    tracker = opened()
    monkeypatch.setattr(tracker.client, "set_terminated", _raise_mlflow_error)
    with pytest.raises(type(error), match=str(error)), tracker:
        raise error


def test_a_trial_has_ended_once_its_final_status_is_written(opened):
    tracker = opened()
    for name, status in (("t0", "FINISHED"), ("t1", "FAILED"), ("t2", "KILLED"), ("t3", None)):
        tracker.start_trial(name, VALUES)
        if status is not None:
            tracker.end_trial(name, status)
    assert [tracker.has_ended(name) for name in ("t0", "t1", "t2", "t3", "t4")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_trials_left_running_by_a_killed_driver_become_killed_on_resume(opened):
    left = opened().start_trial("t0", VALUES)
    after = opened(resume=True)
    after.close()
    assert read(after, left).info.status == "KILLED"


def test_long_histories_and_long_params_fit_mlflows_limits(opened, base):
    tracker = opened()
    wide = base.model_copy(
        update={"probe": base.probe.model_copy(update={"inverse_l2": (1.0,) * 3000})}
    )
    run_id = tracker.start_trial("t0", VALUES, wide)
    history = [
        ("train/loss", 1.0 / step, step, 1_700_000_000_000 + step) for step in range(1, 2301)
    ]
    tracker.log_trial_metrics("t0", {"knn/test_top1": 50.0}, 2300, history)
    assert len(tracker.client.get_metric_history(run_id, "train/loss")) == 2300
    assert len(read(tracker, run_id).data.params["probe.inverse_l2"]) == 6000


def test_the_same_history_delivered_twice_is_kept_once(opened):
    tracker = opened()
    run_id = tracker.start_trial("t0", VALUES)
    for _ in range(2):
        tracker.log_trial_metrics("t0", {}, 1, [("train/loss", 1.5, 1, 1_700_000_000_000)])
    assert len(tracker.client.get_metric_history(run_id, "train/loss")) == 1


def test_numbers_that_are_not_finite_are_a_tag_and_not_a_metric(opened):
    tracker = opened()
    run_id = tracker.start_trial("t0", VALUES)
    tracker.log_trial_metrics(
        "t0", {"train/loss": math.nan, "knn/test_top1": 3.0, "zero_shot/test_top1": math.inf}, 7
    )
    data = read(tracker, run_id).data
    assert data.metrics == {"knn/test_top1": 3.0}
    assert data.tags["beamclip.non_finite"] == "train/loss was nan at step 7"


def test_a_reference_is_written_once_for_each_student(opened):
    tracker = opened()
    run_id = tracker.log_reference("untrained", {}, {"linear_probe/test_top1": 20.0})
    assert tracker.log_reference("untrained", {}, {"linear_probe/test_top1": 20.0}) == run_id
    assert (
        tracker.log_reference(
            "untrained", {"student": "resnet34"}, {"linear_probe/test_top1": 22.0}
        )
        != run_id
    )
    data = read(tracker, run_id).data
    assert data.tags["method"] == "untrained"
    assert data.tags["mlflow.parentRunId"] == tracker.run_id
    assert data.metrics == {"linear_probe/test_top1": 20.0}


def test_files_figures_and_tables_are_kept(opened, tmp_path):
    tracker = opened()
    run_id = tracker.start_trial("t0", VALUES)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "student.txt").write_text("weights")
    tracker.log_trial_artifact("t0", tmp_path / "out", "export")
    tracker.log_trial_artifact("t0", tmp_path / "out" / "student.txt")
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

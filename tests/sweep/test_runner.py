import json
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from beamclip.config import Sweep, UserError, choice, load_experiment, planned_values, with_values
from beamclip.reporting.comparison import compare
from beamclip.stores.paths import asset_key
from beamclip.stores.sweep_record import SweepRecord, begun_sweep
from beamclip.sweep import runner as sweeping
from beamclip.sweep.runner import run_sweep, sweep_lock
from beamclip.tracking import SweepTracker

SWEEP = Sweep(name="my-sweep", space={"seed": choice(1, 2)})


def test_an_interrupted_preparation_is_gone_on_with_in_the_same_sweep(monkeypatch, tmp_path):
    def interrupt(record, bars, repair):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeping, "_prepared", interrupt)
    base = load_experiment("demo", {"storage.path": str(tmp_path)})
    with pytest.raises(KeyboardInterrupt, match="--resume"):  # its text is what to type
        run_sweep(SWEEP, base)
    first = begun_sweep(SWEEP.name, base)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert (compare(uri, SWEEP.name).sweep_id, compare(uri, SWEEP.name).status) == (
        first.sweep_id,
        "KILLED",
    )
    with pytest.raises(KeyboardInterrupt):
        run_sweep(SWEEP, base, resume=True)
    assert begun_sweep(SWEEP.name, base) == first
    assert compare(uri, SWEEP.name).sweep_id == first.sweep_id


def test_the_older_of_two_interrupted_sweeps_is_gone_on_with_by_its_id(monkeypatch, tmp_path):
    def interrupt(record, bars, repair):
        raise KeyboardInterrupt(record.sweep_id)

    monkeypatch.setattr(sweeping, "_prepared", interrupt)
    base = load_experiment("demo", {"storage.path": str(tmp_path)})
    ids = iter(["20260101-000000-0001", "20260102-000000-0001"])
    monkeypatch.setattr(sweeping, "new_sweep_id", lambda: next(ids))
    lines = []
    for resume in (False, False, "20260101-000000-0001", True):
        with pytest.raises(KeyboardInterrupt) as interrupted:
            run_sweep(SWEEP, base, resume)
        lines.append(str(interrupted.value).split()[-1])
    assert lines == [
        "20260101-000000-0001",
        "20260102-000000-0001",
        "20260101-000000-0001",
        "20260102-000000-0001",
    ]


def test_a_sweep_that_never_began_hides_none_that_did(monkeypatch, tmp_path):
    """As with a mistyped data folder."""
    base = load_experiment("demo", {"storage.path": str(tmp_path)})
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with SweepTracker.open(uri, f"{tmp_path}/artifacts", SWEEP, base, "20260101-000000-0001"):
        pass

    def refuse(record, bars, repair):
        raise UserError("no such folder")

    monkeypatch.setattr(sweeping, "_prepared", refuse)
    with pytest.raises(UserError, match="no such folder"):
        run_sweep(SWEEP, base)
    assert compare(uri, SWEEP.name).sweep_id == "20260101-000000-0001"


def test_a_sweep_that_another_process_runs_is_left_alone(monkeypatch, tmp_path):
    base = load_experiment("demo", {"storage.path": str(tmp_path)})
    running = SweepRecord(SWEEP, base, "20260101-000000-0001")
    running.save()
    with sweep_lock(running), pytest.raises(UserError, match="is being run by another process"):
        run_sweep(SWEEP, base, resume=True)
    assert not (tmp_path / "mlflow.db").exists()


def _made(record, bars, repair):
    """As `sweeping._prepared`, with a teacher that is no better than guessing."""
    facts = {
        "teacher": "tiny",
        "classes": 10,
        "teacher/images_encoded_in_all": 7,
        "data_key": "d",
        "teacher_fingerprint": "f",
    }
    facts |= {
        "teacher/zero_shot_test_top1": 11.0,
        "teacher/zero_shot_val_top1": 11.0,
        "teacher/zero_shot_val_top1_low": 8.0,
    }
    facts["anchors"] = {
        "prompt_set": "openai_7",
        "anchors": 3,
        "prompts": 21,
        "prompts_per_class": [7, 7],
        "bare": 3,
        "shortened": 0,
    }
    facts["anchors"] |= {"duplicates": 0, "near": 0, "nearest": [["a", "b", 0.5]], "hash": "cafe"}
    bank = Path(record.base.storage.path) / "bank"
    bank.mkdir()
    np.save(bank / "anchors.npy", np.eye(3, dtype=np.float32))
    (bank / "manifest.json").write_text('{"names": ["a", "b", "c"]}')
    made = json.dumps({"facts": facts, "teachers": [{"anchors": str(bank)}]})
    return replace(
        record,
        assets={
            asset_key(with_values(record.base, values)): made
            for values in planned_values(record.sweep)
        },
    )


def _failed(record, tracker, bars, resume):
    """As `sweeping._run`, where every trial fails."""
    for number, values in enumerate(planned_values(record.sweep)):
        tracker.trial(f"t{number}", values)
        tracker.trial_finished(f"t{number}", "FAILED", "no such luck")
    return True


@pytest.mark.slow
def test_a_sweep_of_which_nothing_came_says_so_and_is_failed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sweeping, "_prepared", _made)
    monkeypatch.setattr(sweeping, "_run", _failed)
    base = load_experiment("demo", {"storage.path": str(tmp_path)})
    with pytest.raises(
        UserError,
        match="no trial of my-sweep finished with a result; the reasons stand above, under the table",
    ):
        run_sweep(SWEEP, base)
    assert compare(f"sqlite:///{tmp_path}/mlflow.db", SWEEP.name).status == "FAILED"
    assert "failed, seed=1: no such luck" in capsys.readouterr().out


def _ran(record, tracker, bars, resume):
    """As `sweeping._run`, with trials that get what their settings say."""
    for number, values in enumerate(planned_values(record.sweep)):
        tracker.trial(f"t{number}", values)
        val = 40.0 + 10 * values["views.stored"] + values["seed"]
        cost = {"cost/device_seconds": 10.0 * values["views.stored"], "cost/images_seen": 640}
        tracker.trial_metrics(
            f"t{number}",
            {"linear_probe/val_top1": val, "linear_probe/test_top1": val - 1} | cost,
            1,
        )
        tracker.trial_finished(f"t{number}", "FINISHED")
    return True


@pytest.mark.slow
def test_what_mattered_is_kept_with_the_sweep_and_said_after_the_table(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(sweeping, "_prepared", _made)
    monkeypatch.setattr(sweeping, "_run", _ran)
    monkeypatch.setattr(
        sys,
        "argv",
        ["/bin/beamclip", "sweep", "--tracking-uri", "http://me:secret@host", "--set", "a=b c"],
    )
    space = {
        "views.stored": choice(1, 2),
        "student.projector": choice("linear", "mlp"),
        "optimiser.name": choice("sgd", "adamw"),
    }
    space["seed"] = choice(0, 1)
    run_sweep(
        Sweep(name="mattered", space=space),
        load_experiment("demo", {"storage.path": str(tmp_path)}),
    )
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("mattered")
    (parent,) = client.search_runs([experiment.experiment_id], "tags.kind = 'sweep'")
    kept = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {
        "accuracy.png",
        "accuracy_cost.png",
        "effects.png",
        "effects.csv",
        "parallel.png",
        "anchors.csv",
    } <= kept
    pictures = {file.path for file in client.list_artifacts(parent.info.run_id, "anchors/cafe")}
    assert pictures == {"anchors/cafe/heat_map.png", "anchors/cafe/nearest_pairs.csv"}
    table = mlflow.artifacts.load_text(f"{parent.info.artifact_uri}/effects.csv").splitlines()
    assert (
        table[0]
        == "setting,eta_squared,eta_squared_by_chance,best_value,mean_at_best,mean_at_worst,trials"
    )
    assert table[1] == "views.stored,0.9901,0.0667,2,60.5,50.5,16"
    said = capsys.readouterr()
    line = "what mattered (share of the variance of linear_probe/val_top1): stored 99 %, "
    line += "name 0 % (by chance 7 %), projector 0 % (by chance 7 %)"
    assert line in " ".join(said.out.split())
    assert "WARNING: the teacher hardly knows these classes" in said.err
    assert (
        parent.data.tags["beamclip.command"]
        == "beamclip sweep --tracking-uri http://…@host --set 'a=b c'"
    )
    assert parent.data.tags["beamclip.folder"].startswith(f"{tmp_path}/sweeps/mattered/")
    best = compare(f"sqlite:///{tmp_path}/mlflow.db", "mattered").best.run_id
    assert f"beamclip report mattered --storage {tmp_path}\n" in said.out
    assert said.out.endswith(
        f"Probe its best again:    beamclip evaluate run:{best} --storage {tmp_path}\n"
    )
    assert parent.data.tags["beamclip.teacher_near_chance"].startswith(
        "tiny with prompt set openai_7: 11 % of val right"
    )

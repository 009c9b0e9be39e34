import errno
import fcntl
import json
import subprocess
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
from beamclip.stores.sweep_record import SweepRecord, find_sweep
from beamclip.sweep import local_paths, runner
from beamclip.sweep.local_paths import check_local_paths
from beamclip.sweep.runner import plan_sweep, run_sweep, sweep_lock
from beamclip.tracking import SweepTracker

SWEEP = Sweep(name="my-sweep", space={"seed": choice(1, 2)})


@pytest.mark.slow
def test_an_interrupted_preparation_resumes_in_the_same_sweep(monkeypatch, storage):
    def interrupt(record, bars, repair):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_build_stores", interrupt)
    base = load_experiment("demo", {"storage.path": str(storage)})
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        run_sweep(SWEEP, base)
    first = find_sweep(SWEEP.name, base)
    uri = f"sqlite:///{storage}/mlflow.db"
    assert (compare(uri, SWEEP.name).sweep_id, compare(uri, SWEEP.name).status) == (
        first.sweep_id,
        "KILLED",
    )
    with pytest.raises(KeyboardInterrupt):
        run_sweep(SWEEP, base, resume=True)
    assert find_sweep(SWEEP.name, base) == first
    assert compare(uri, SWEEP.name).sweep_id == first.sweep_id


@pytest.mark.slow
def test_the_older_of_two_interrupted_sweeps_is_resumed_by_its_id(monkeypatch, tmp_path):
    def interrupt(record, bars, repair):
        raise KeyboardInterrupt(record.sweep_id)

    monkeypatch.setattr(runner, "_build_stores", interrupt)
    base = load_experiment("demo", {"storage.path": str(tmp_path)})
    ids = iter(["20260101-000000-0001", "20260102-000000-0001"])
    monkeypatch.setattr(runner, "new_sweep_id", lambda: next(ids))
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


@pytest.mark.slow
def test_a_sweep_that_never_began_does_not_become_the_latest(monkeypatch, storage):
    """Such as one with a mistyped data folder."""
    base = load_experiment("demo", {"storage.path": str(storage)})
    uri = f"sqlite:///{storage}/mlflow.db"
    with SweepTracker.open(uri, f"{storage}/artifacts", SWEEP, base, "20260101-000000-0001"):
        pass

    def refuse(record, bars, repair):
        raise UserError("no such folder")

    monkeypatch.setattr(runner, "_build_stores", refuse)
    with pytest.raises(UserError, match="no such folder"):
        run_sweep(SWEEP, base)
    assert compare(uri, SWEEP.name).sweep_id == "20260101-000000-0001"


@pytest.fixture
def stores_are_never_built(monkeypatch):
    def build(record, bars, repair):
        raise AssertionError("Ray would start")

    monkeypatch.setattr(runner, "_build_stores", build)
    monkeypatch.setattr(runner, "_plan_stores", build)


@pytest.mark.parametrize("start", [run_sweep, plan_sweep])
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"data.path": "none", "data.source": "auto"}, "data.path {}/none does not exist; give"),
        ({"teacher.model": "local-dir:none"}, "teacher.model names the folder {}/none, which"),
        (
            {"teacher.others": [{"model": "local-dir:none"}], "objective.name": "csm"},
            "teacher.others names the folder {}/none, which does not exist",
        ),
        (
            {"data.path": "x" * 256, "data.source": "auto"},
            r"data.path {}/x+ is not a valid path here \(File name too long\)",
        ),
        (
            {"teacher.model": f"local-dir:{'x' * 256}"},
            r"teacher.model {}/x+ is not a valid path here \(File name too long\)",
        ),
    ],
)
def test_a_folder_that_does_not_exist_is_found_before_ray_and_mlflow(
    start, settings, says, stores_are_never_built, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    base = load_experiment("demo", {"storage.path": str(tmp_path), **settings})
    with pytest.raises(UserError, match=f"^{says.format(tmp_path)}"):
        start(SWEEP, base)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_only_a_cluster_may_have_are_left_to_it(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    nowhere = {"data.path": f"{tmp_path}/none", "data.source": "folder"}
    check_local_paths(SWEEP, load_experiment("demo", nowhere))
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with pytest.raises(UserError, match="does not exist"):
        check_local_paths(SWEEP, load_experiment("demo", nowhere))


def test_only_trials_that_differ_in_their_folders_are_checked(monkeypatch, tmp_path):
    """A grid of 10,000 trials would take a minute otherwise."""
    checked = []
    monkeypatch.setattr(local_paths, "_check_folders", checked.append)
    space = {"seed": choice(*range(50)), "data.path": choice("/a", "/b")}
    sweep = Sweep(name="s", space=space)
    base = load_experiment("demo", {"storage.path": str(tmp_path), "data.source": "auto"})
    check_local_paths(sweep, base)
    assert [experiment.data.path for experiment in checked] == ["/a", "/b"]


def test_urls_are_left_to_the_preparation(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    opened = []
    monkeypatch.setattr(local_paths, "open_folder", opened.append)
    remote = {"data.path": "s3://nowhere/images", "data.source": "folder"}
    check_local_paths(SWEEP, load_experiment("demo", remote))
    assert opened == []


@pytest.mark.parametrize(
    ("key", "option"),
    [
        ("data.path", "--data DIR"),
        ("data.class_names", "--set data.class_names=FILE"),
        ("teacher.model", "--set teacher.model=local-dir:FOLDER"),
    ],
)
def test_a_resume_that_lacks_an_input_names_the_option_for_its_new_place(
    key, option, stores_are_never_built, monkeypatch, tmp_path
):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    place = f"{tmp_path}/gone"
    value = f"local-dir:{place}" if key == "teacher.model" else place
    (tmp_path / "images" / "train").mkdir(parents=True)
    settings = {"data.source": "folder", "data.path": f"{tmp_path}/images", key: value}
    base = load_experiment("demo", {"storage.path": str(tmp_path), **settings})
    SweepRecord(SWEEP, base, "20260101-000000-0001").save()
    message = f"{key} {place} does not exist; if it was moved, add {option} to --resume"
    with pytest.raises(UserError) as caught:
        run_sweep(SWEEP, base, resume=True)
    assert str(caught.value) == message
    # Nor is it in the place that the option names.
    with pytest.raises(UserError) as caught:
        run_sweep(SWEEP, base, resume=True, moved={key: f"{value}/too"})
    assert str(caught.value) == message.replace(place, f"{place}/too")
    (tmp_path / "there").mkdir()
    value = value.replace("gone", "there")
    with pytest.raises(AssertionError, match="Ray would start"):
        run_sweep(SWEEP, base, resume=True, moved={key: value})


def test_a_sweep_that_another_process_runs_is_not_resumed(monkeypatch, tmp_path):
    base = load_experiment("demo", {"storage.path": str(tmp_path)})
    running = SweepRecord(SWEEP, base, "20260101-000000-0001")
    running.save()
    with sweep_lock(running), pytest.raises(UserError, match="is being run by another process"):
        run_sweep(SWEEP, base, resume=True)
    assert not (tmp_path / "mlflow.db").exists()


def _build_stub_stores(record, bars, repair):
    """As `runner._build_stores`, with a teacher that is no better than guessing."""
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
    anchors = Path(record.base.storage.path) / "anchors"
    anchors.mkdir()
    np.save(anchors / "anchors.npy", np.eye(3, dtype=np.float32))
    (anchors / "manifest.json").write_text('{"names": ["a", "b", "c"]}')
    text = json.dumps({"facts": facts, "teachers": [{"anchors": str(anchors)}]})
    return replace(
        record,
        assets={
            asset_key(with_values(record.base, values)): text
            for values in planned_values(record.sweep)
        },
    )


def _fail_trials(record, tracker, bars, resume):
    """As `runner._run_trials`, with trials that all fail."""
    for number, values in enumerate(planned_values(record.sweep)):
        tracker.start_trial(f"t{number}", values)
        tracker.end_trial(f"t{number}", "FAILED", "no such luck")
    return True


@pytest.mark.slow
def test_a_sweep_without_any_result_has_failed(monkeypatch, storage, capsys):
    monkeypatch.setattr(runner, "_build_stores", _build_stub_stores)
    monkeypatch.setattr(runner, "_run_trials", _fail_trials)
    base = load_experiment("demo", {"storage.path": str(storage)})
    with pytest.raises(
        UserError,
        match="no trial of my-sweep finished with a result; see the errors under the table above",
    ):
        run_sweep(SWEEP, base)
    assert compare(f"sqlite:///{storage}/mlflow.db", SWEEP.name).status == "FAILED"
    assert "failed, seed=1: no such luck" in capsys.readouterr().out


def _finish_trials(record, tracker, bars, resume):
    """As `runner._run_trials`, with trials whose accuracy depends on their settings."""
    for number, values in enumerate(planned_values(record.sweep)):
        tracker.start_trial(f"t{number}", values)
        val = 40.0 + 10 * values["views.stored"] + values["seed"]
        cost = {"cost/device_seconds": 10.0 * values["views.stored"], "cost/images_seen": 640}
        tracker.log_trial_metrics(
            f"t{number}",
            {"linear_probe/val_top1": val, "linear_probe/test_top1": val - 1} | cost,
            1,
        )
        tracker.end_trial(f"t{number}", "FINISHED")
    return True


@pytest.mark.slow
def test_effects_and_plots_are_kept_with_the_sweep_and_printed(monkeypatch, storage, capsys):
    monkeypatch.setattr(runner, "_build_stores", _build_stub_stores)
    monkeypatch.setattr(runner, "_run_trials", _finish_trials)
    monkeypatch.setattr(
        sys,
        "argv",
        ["/bin/beamclip", "sweep", "--tracking-uri", "http://me:secret@host", "--set", "a=b c"],
    )
    space = {
        "views.stored": choice(1, 2),
        "student.projector": choice("linear", "mlp"),
        "optimizer.name": choice("sgd", "adamw"),
    }
    space["seed"] = choice(0, 1)
    run_sweep(
        Sweep(name="mattered", space=space),
        load_experiment("demo", {"storage.path": str(storage)}),
    )
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
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
    output = capsys.readouterr()
    line = "share of the variance of linear_probe/val_top1 explained: stored 99 %, "
    line += "name 0 % (by chance 7 %), projector 0 % (by chance 7 %)"
    assert line in " ".join(output.out.split())
    assert (
        parent.data.tags["beamclip.command"]
        == "beamclip sweep --tracking-uri http://…@host --set 'a=b c'"
    )
    assert parent.data.tags["beamclip.folder"].startswith(f"{storage}/sweeps/mattered/")
    best = compare(f"sqlite:///{storage}/mlflow.db", "mattered").best.run_id
    assert f"beamclip report mattered --storage {storage}\n" in output.out
    assert output.out.endswith(
        f"Probe the best again:    beamclip evaluate run:{best} --storage {storage}\n"
    )
    assert parent.data.tags["beamclip.teacher_near_chance"].startswith(
        "tiny with prompt set openai_7: 11 % of val right"
    )


LOCK_SCRIPT = """
import sys, time
from beamclip.config import Sweep, load_experiment
from beamclip.stores.sweep_record import SweepRecord
from beamclip.sweep.runner import sweep_lock

base = load_experiment("demo", {"storage.path": sys.argv[1]})
with sweep_lock(SweepRecord(Sweep(name="temp"), base, "20260101-000000-0001")):
    print("locked", flush=True)
    time.sleep(600)
"""


def record_in(storage, sweep_id="20260101-000000-0001"):
    return SweepRecord(
        Sweep(name="temp"), load_experiment("demo", {"storage.path": str(storage)}), sweep_id
    )


@pytest.mark.slow
def test_a_second_driver_is_refused_until_the_first_has_ended_or_was_killed(tmp_path):
    first = subprocess.Popen(
        [sys.executable, "-c", LOCK_SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "locked\n"
    with pytest.raises(
        UserError,
        match="sweep temp, 20260101-000000-0001, is being run by another process; "
        "wait .* before --resume",
    ):
        sweep_lock(record_in(tmp_path)).__enter__()
    with sweep_lock(record_in(tmp_path, "20260102-000000-0001")):  # another sweep of that name
        pass
    first.kill()
    first.wait()
    with sweep_lock(record_in(tmp_path)):
        pass


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt])
def test_after_an_error_the_lock_is_free_again(tmp_path, error):
    with pytest.raises(error), sweep_lock(record_in(tmp_path)):
        raise error
    with sweep_lock(record_in(tmp_path)), pytest.raises(UserError, match="another process"):
        sweep_lock(record_in(tmp_path)).__enter__()


def test_a_sweep_that_never_began_leaves_no_lock_file(tmp_path):
    with sweep_lock(record_in(tmp_path)):
        assert (tmp_path / "sweeps" / "temp").exists()
    assert list(tmp_path.iterdir()) == []
    with sweep_lock(record_in(tmp_path)):
        record_in(tmp_path).save()
        with sweep_lock(record_in(tmp_path, "20260102-000000-0001")):
            pass
    assert sorted(file.name for file in (tmp_path / "sweeps" / "temp").iterdir()) == [
        ".20260101-000000-0001.lock",
        "20260101-000000-0001",
    ]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_file_locks_a_sweep_runs_unlocked(tmp_path, monkeypatch, code):
    def unknown(file, how):
        raise OSError(code, "no locks here")

    monkeypatch.setattr(fcntl, "flock", unknown)
    # Nothing then keeps a second driver away, as the docstring says.
    with sweep_lock(record_in(tmp_path)), sweep_lock(record_in(tmp_path)):
        assert (tmp_path / "sweeps" / "temp" / ".20260101-000000-0001.lock").exists()


def test_a_storage_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "sweeps").touch()
    with pytest.raises(
        UserError,
        match=r"storage .*/sweeps/temp can't be written \(.*\); choose another with --storage",
    ):
        sweep_lock(record_in(tmp_path)).__enter__()


def test_a_storage_behind_a_uri_is_not_locked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with sweep_lock(record_in("mock://bucket/runs")):
        assert list(Path().iterdir()) == []

from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from beamclip.config import Sweep, UserError, choice, load_experiment, with_values
from beamclip.stores.paths import artifact_root, tracking_uri
from beamclip.sweep.student_init import experiment_of_run, fetch_initial_students
from beamclip.tracking import SweepTracker

pytestmark = pytest.mark.slow


@pytest.fixture
def storage_values(tmp_path):
    return {"storage.path": str(tmp_path / "storage"), "storage.cache": str(tmp_path / "stores")}


@pytest.fixture
def base(storage_values):
    return load_experiment("demo", storage_values)


@pytest.fixture
def runs(base, tmp_path):
    """Run ids of two trials in a real MLflow, of which the first has a student."""
    sweep = Sweep(name="before", space={"seed": choice(0, 1)})
    (tmp_path / "student.safetensors").write_bytes(b"learnt")
    (tmp_path / "storage").mkdir()
    with SweepTracker.open(tracking_uri(base), artifact_root(base), sweep, base, "s1") as tracker:
        ids = [tracker.start_trial(f"t{seed}", {"seed": seed}) for seed in (0, 1)]
        tracker.log_trial_artifact("t0", tmp_path / "student.safetensors")
    return ids


def test_students_in_base_space_and_variants_are_fetched(base, runs):
    init = f"run:{runs[0]}"
    space = {"student.init": choice("random", init), "variant": choice("a")}
    sweep = Sweep(name="s", space=space, variants={"a": {"student.init": init, "seed": 3}})
    named, resolved = fetch_initial_students(
        sweep, base.model_copy(update={"student": base.student.model_copy(update={"init": init})})
    )
    file = resolved.student.init
    assert Path(file).read_bytes() == b"learnt" and runs[0] in file
    assert named.space["student.init"].values == ("random", file)
    assert named.variants == {"a": {"student.init": file, "seed": 3}}


def test_a_student_in_a_nested_variant_is_fetched(base, runs):
    variants = {"a": {"student": {"init": f"run:{runs[0]}"}}}
    named, _ = fetch_initial_students(
        Sweep(name="s", space={"variant": choice("a")}, variants=variants), base
    )
    assert Path(named.variants["a"]["student.init"]).read_bytes() == b"learnt"


def test_without_run_students_nothing_changes(base):
    sweep = Sweep(name="s", space={"student.init": choice("random", "pretrained")})
    assert fetch_initial_students(sweep, base) == (sweep, base)


@pytest.mark.parametrize(
    ("run", "message"),
    [(1, "has no student"), ("0" * 32, "is not a run of"), ("../etc", "names no MLflow run")],
)
def test_a_run_without_a_student_is_an_error(base, runs, run, message):
    run_id = runs[run] if isinstance(run, int) else run
    with pytest.raises(UserError, match=message):
        fetch_initial_students(
            Sweep(name="s", space={"student.init": choice(f"run:{run_id}")}), base
        )


def test_given_values_override_the_settings_of_a_run(base, storage_values, runs):
    trained = with_values(
        base, {"data.val_fraction": 0.3, "optimizer.epochs": 7, "storage.path": "/elsewhere"}
    )
    client = MlflowClient(tracking_uri(base))
    client.log_text(runs[0], yaml.safe_dump(trained.model_dump(mode="json")), "config.yaml")
    experiment = experiment_of_run(f"run:{runs[0]}", storage_values | {"optimizer.epochs": 9})
    assert (experiment.data.val_fraction, experiment.optimizer.epochs) == (0.3, 9)
    assert experiment.storage == base.storage


def test_values_are_checked_together_with_the_settings_of_the_run(base, storage_values, runs):
    """Values may fit the run's data though they don't fit the default data, the demo's."""
    client = MlflowClient(tracking_uri(base))
    client.log_text(
        runs[0],
        yaml.safe_dump({"data": {"source": "folder", "path": "/images", "image_size": 224}}),
        "config.yaml",
    )
    experiment = experiment_of_run(f"run:{runs[0]}", storage_values | {"student.image_size": 224})
    assert experiment is not None and experiment.student.image_size == 224
    with pytest.raises(UserError, match="student.image_size 225 is larger"):
        experiment_of_run(f"run:{runs[0]}", storage_values | {"student.image_size": 225})


def test_a_run_without_settings_has_no_experiment(storage_values, runs):
    assert experiment_of_run(f"run:{runs[1]}", storage_values) is None
    with pytest.raises(UserError, match="is not a run of"):
        experiment_of_run("run:" + "0" * 32, storage_values)


@pytest.mark.parametrize("content", ["", "- a list", "{cut short"])
def test_settings_that_can_not_be_read_are_an_error(base, storage_values, runs, content):
    MlflowClient(tracking_uri(base)).log_text(runs[0], content, "config.yaml")
    with pytest.raises(
        UserError,
        match=f"config.yaml of run:{runs[0]} has no settings; "
        "choose the settings to evaluate with by --preset",
    ):
        experiment_of_run(f"run:{runs[0]}", storage_values)

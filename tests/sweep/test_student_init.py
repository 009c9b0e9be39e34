from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from beamclip.config import Sweep, UserError, choice, load_experiment, with_values
from beamclip.stores.paths import artifact_root, tracking_uri
from beamclip.sweep.student_init import as_trained, with_starts
from beamclip.tracking import SweepTracker

pytestmark = pytest.mark.slow


@pytest.fixture
def places(tmp_path):
    return {"storage.path": str(tmp_path / "storage"), "storage.cache": str(tmp_path / "stores")}


@pytest.fixture
def base(places):
    return load_experiment("demo", places)


@pytest.fixture
def runs(base, tmp_path):
    """Two trials in a real MLflow, of which the first kept a student."""
    sweep = Sweep(name="before", space={"seed": choice(0, 1)})
    (tmp_path / "student.safetensors").write_bytes(b"learnt")
    (tmp_path / "storage").mkdir()
    with SweepTracker.open(tracking_uri(base), artifact_root(base), sweep, base, "s1") as tracker:
        ids = [tracker.trial(f"t{seed}", {"seed": seed}) for seed in (0, 1)]
        tracker.trial_artifact("t0", tmp_path / "student.safetensors")
    return ids


def test_a_run_is_fetched_wherever_it_is_named(base, runs):
    init = f"run:{runs[0]}"
    space = {"student.init": choice("random", init), "variant": choice("a")}
    sweep = Sweep(name="s", space=space, variants={"a": {"student.init": init, "seed": 3}})
    named, resolved = with_starts(
        sweep, base.model_copy(update={"student": base.student.model_copy(update={"init": init})})
    )
    file = resolved.student.init
    assert Path(file).read_bytes() == b"learnt" and runs[0] in file
    assert named.space["student.init"].values == ("random", file)
    assert named.variants == {"a": {"student.init": file, "seed": 3}}


def test_a_run_is_fetched_for_a_nested_variant_too(base, runs):
    variants = {"a": {"student": {"init": f"run:{runs[0]}"}}}
    named, _ = with_starts(Sweep(name="s", space={"variant": choice("a")}, variants=variants), base)
    assert Path(named.variants["a"]["student.init"]).read_bytes() == b"learnt"


def test_without_such_a_start_nothing_changes_and_nobody_is_asked(base):
    sweep = Sweep(name="s", space={"student.init": choice("random", "pretrained")})
    assert with_starts(sweep, base) == (sweep, base)


@pytest.mark.parametrize(
    ("which", "says"),
    [(1, "kept no student"), ("0" * 32, "is no run of"), ("../etc", "names no MLflow run")],
)
def test_a_run_without_a_student_is_a_sentence(base, runs, which, says):
    run_id = runs[which] if isinstance(which, int) else which
    with pytest.raises(UserError, match=says):
        with_starts(Sweep(name="s", space={"student.init": choice(f"run:{run_id}")}), base)


def test_the_settings_of_a_run_are_its_own_with_values_over_them(base, places, runs):
    trained = with_values(
        base, {"data.val_fraction": 0.3, "optimiser.epochs": 7, "storage.path": "/elsewhere"}
    )
    client = MlflowClient(tracking_uri(base))
    client.log_text(runs[0], yaml.safe_dump(trained.model_dump(mode="json")), "config.yaml")
    found = as_trained(f"run:{runs[0]}", places | {"optimiser.epochs": 9})
    assert (found.data.val_fraction, found.optimiser.epochs) == (0.3, 9)
    assert found.storage == base.storage  # where it was found, and not where it once was written


def test_values_are_checked_beside_the_settings_of_the_run(base, places, runs):
    """What does not go with the demo's 4,000 images may well go with those the run was trained on."""
    client = MlflowClient(tracking_uri(base))
    client.log_text(
        runs[0],
        yaml.safe_dump({"data": {"source": "folder", "path": "/images", "image_size": 224}}),
        "config.yaml",
    )
    found = as_trained(f"run:{runs[0]}", places | {"student.image_size": 224})
    assert found is not None and found.student.image_size == 224
    with pytest.raises(UserError, match="student.image_size 225 is larger"):
        as_trained(f"run:{runs[0]}", places | {"student.image_size": 225})


def test_a_run_without_settings_has_none_to_judge_it_by(places, runs):
    assert as_trained(f"run:{runs[1]}", places) is None
    with pytest.raises(UserError, match="is no run of"):
        as_trained("run:" + "0" * 32, places)


@pytest.mark.parametrize("content", ["", "- a list", "{cut short"])
def test_settings_that_can_not_be_read_are_a_sentence(base, places, runs, content):
    MlflowClient(tracking_uri(base)).log_text(runs[0], content, "config.yaml")
    with pytest.raises(
        UserError,
        match=f"config.yaml of run:{runs[0]} holds no settings; name those to judge it by with --preset",
    ):
        as_trained(f"run:{runs[0]}", places)

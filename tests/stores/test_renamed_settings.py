"""Keys and records from before settings were renamed; that version computed all literals."""

import json

import numpy as np
import pytest

from beamclip.config import choice, load_experiment, trial_experiment
from beamclip.data.augmentation import sample
from beamclip.stores import key_of
from beamclip.stores.paths import asset_key
from beamclip.stores.sweep_record import find_sweep
from beamclip.teachers import ViewSet

ID = "20260101-000000-0001"
OLD_NAMES = {
    "views.custom": {"mine": {"grey": 0.3, "area": [0.5, 1.0]}},
    "views.recipe": "mine",
    "data.broken_fraction": 0.2,
    "balance.remove": 0.2,
    "balance.neighbours": 16,
    "student.drawn": "torch",
    "optimiser.lr": 0.5,
    "probe.grid.normalisation": ["standardise"],
}


@pytest.fixture
def experiment():
    return load_experiment("demo", OLD_NAMES)


@pytest.mark.parametrize(
    ("preset", "key"),
    [
        ("demo", "ad526048c5df93ff"),
        ("cifar10", "a15afbff318e2770"),
        ("imagenet", "a5e0a76d86a422af"),
        ("imagenette", "4fd4c8b8ad36d86a"),
    ],
)
def test_a_renamed_setting_does_not_change_the_asset_key_of_a_preset(preset, key):
    assert asset_key(load_experiment(preset)) == key


def test_a_renamed_setting_does_not_change_any_other_key(experiment):
    assert asset_key(experiment) == "258851bae206be37"
    untrained = experiment.key_parts(include={"student", "probe", "data", "seed"})
    assert key_of({"stores": [], **untrained}) == "6db4a74003877be3"
    # The key of a student that one trial hands to another, without the part of the objective.
    trained = experiment.key_parts(exclude={"storage", "tracking", "scaling", "objective"})
    assert key_of(trained) == "848acfaae0b9e538"
    views = ViewSet(np.arange(3), experiment.views.resolve(), 2, 5)
    assert key_of(views.key_parts()["recipe"]) == "4b78a8d8b2448fec"


def test_a_gray_range_is_in_the_keys_but_its_default_is_not():
    default = load_experiment("cifar10")
    given = load_experiment("cifar10", {"data.gray_range": [0, 4095]})
    assert asset_key(given) != asset_key(default)
    assert given.key_parts()["data"]["gray_range"] == [0, 4095]
    assert "gray_range" not in default.key_parts()["data"]
    assert default.model_dump()["data"]["gray_range"] is None


def test_a_renamed_setting_does_not_change_the_random_numbers_of_views(experiment):
    ids, views = np.arange(4), np.zeros(4, np.int64)
    left = sample.draw(experiment.views.resolve(), ids, views, 7).left
    assert left.tolist() == [
        0.08582848310470581,
        0.042216602712869644,
        0.10599786788225174,
        0.16934442520141602,
    ]


def test_a_sweep_begun_under_old_names_is_resumed_silently(tmp_path, capsys):
    folder = tmp_path / "sweeps" / "temp" / ID
    folder.mkdir(parents=True)
    base = {
        "data": {"source": "demo", "image_size": 32, "broken_fraction": 0.02, "train_images": 4000},
        "views": {"recipe": "mine", "custom": {"mine": {"area": [0.5, 1.0], "grey": 0.2}}},
        "balance": {"neighbours": 16},
        "student": {"backbone": "test_resnet", "image_size": 32, "drawn": "torch"},
        "optimiser": {"name": "adamw", "lr": 0.003, "epochs": 6, "batch_size": 128},
        "probe": {"grid": {"normalisation": ["standardise", "l2"]}},
        "storage": {"path": str(tmp_path)},
    }
    sweep = {
        "name": "temp",
        "space": {
            "optimiser.lr": {"kind": "choice", "values": [0.1, 0.2]},
            "variant": {"kind": "choice", "values": ["a"]},
        },
        "variants": {"a": {"optimiser.epochs": 3, "student.drawn": "timm"}},
    }
    # The key of these settings, computed by the version before the renaming.
    assets = {"d6ea0b71c3d82e23": '{"packed": "x"}'}
    content = {"sweep": sweep, "base": base, "sweep_id": ID, "assets": assets, "untrained": {}}
    (folder / "sweep.json").write_text(json.dumps(content))

    found = find_sweep("temp", load_experiment("demo", {"storage.path": str(tmp_path)}))
    assert found.sweep.space["optimizer.lr"] == choice(0.1, 0.2)
    assert found.sweep.variants == {"a": {"optimizer.epochs": 3, "student.weight_init": "timm"}}
    assert found.base.data.max_unreadable_fraction == 0.02
    assert found.base.views.resolve().gray == 0.2
    assert (found.base.balance.neighbors, found.base.student.weight_init) == (16, "torch")
    assert found.base.probe.grid.normalization == ("standardize", "l2")
    # Tune's saved state has the old name.
    trial = trial_experiment(found.sweep, found.base, {"optimiser.lr": 0.2, "variant": "a"})
    assert (trial.optimizer.lr, trial.optimizer.epochs) == (0.2, 3)
    assert asset_key(trial) in found.assets
    assert capsys.readouterr().err == ""

    found.save()
    assert find_sweep("temp", load_experiment("demo", {"storage.path": str(tmp_path)})) == found

import pytest

from beamclip.config import (
    Experiment,
    Sweep,
    UserError,
    choice,
    load_experiment,
    parse_assignments,
    renamed,
    trial_experiment,
    validate,
    with_values,
)
from beamclip.config.renamed import RENAMED, current_key, current_names

OLD = {
    "optimiser.lr": 0.5,
    "student.drawn": "torch",
    "data.broken_fraction": 0.2,
    "balance.neighbours": 16,
    "probe.grid.normalisation": ["standardise"],
    "views.custom": {"mine": {"grey": 0.3}},
}
NEW = {
    "optimizer.lr": 0.5,
    "student.weight_init": "torch",
    "data.max_unreadable_fraction": 0.2,
    "balance.neighbors": 16,
    "probe.grid.normalization": ["standardize"],
    "views.custom": {"mine": {"gray": 0.3}},
}
OLD_YAML = """
data: {source: demo, image_size: 32, broken_fraction: 0.2}
views: {custom: {mine: {grey: 0.3}}}
balance: {neighbours: 16}
student: {image_size: 32, drawn: torch}
probe: {grid: {normalisation: [standardise]}}
optimiser: {lr: 0.5}
"""


@pytest.fixture(autouse=True)
def announced(monkeypatch):
    """Names announced so far, none at the start of each test."""
    names: set[str] = set()
    monkeypatch.setattr(renamed, "_announced", names)
    return names


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("optimiser", "optimizer"),
        ("optimiser.lr", "optimizer.lr"),
        ("student.drawn", "student.weight_init"),
        ("views.custom.mine.grey", "views.custom.mine.gray"),
        ("optimizer.lr", "optimizer.lr"),
        ("student", "student"),
        ("anchors.senses.drawn", "anchors.senses.drawn"),
        ("drawn", "drawn"),
    ],
)
def test_an_old_key_has_one_new_key(old, new):
    assert current_key(old) == new


def test_names_are_replaced_in_trees_and_dotted_keys_and_nowhere_else():
    tree = {"optimiser": {"lr": 1}, "anchors": {"senses": {"optimiser": "a word", 3: None}}}
    assert current_names(tree) == {
        "optimizer": {"lr": 1},
        "anchors": {"senses": {"optimiser": "a word", 3: None}},
    }
    assert current_names({"views.custom": {"optimiser": {"grey": 1}}}) == {
        "views.custom": {"optimiser": {"gray": 1}}
    }


def test_every_old_name_of_an_override_gives_the_same_experiment():
    assert load_experiment("demo", OLD) == load_experiment("demo", NEW)
    assert with_values(load_experiment("demo"), OLD) == load_experiment("demo", NEW)
    assert len(OLD) == len(RENAMED)


def test_a_preset_file_with_old_names_gives_one_warning_per_name(tmp_path, capsys):
    preset = tmp_path / "mine.yaml"
    preset.write_text(OLD_YAML)
    for _ in range(2):
        experiment = load_experiment(str(preset))
    assert experiment.optimizer.lr == 0.5
    assert experiment.student.weight_init == "torch"
    assert experiment.data.max_unreadable_fraction == 0.2
    assert experiment.balance.neighbors == 16
    assert experiment.probe.grid.normalization == ("standardize",)
    assert experiment.views.custom["mine"].gray == 0.3
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == len(RENAMED)
    assert "beamclip: optimiser is now optimizer; the old name still works" in printed


def test_the_command_line_takes_old_names(capsys):
    values = parse_assignments(["optimiser.lr=1e-3", "views.custom={mine: {grey: 0.5}}"])
    assert values == {"optimizer.lr": 0.001, "views.custom": {"mine": {"gray": 0.5}}}
    assert parse_assignments(["optimiser.lr=1"], "--space") == {"optimizer.lr": 1}
    printed = capsys.readouterr().err.splitlines()
    assert printed == [
        "beamclip: optimiser.lr is now optimizer.lr; the old name still works",
        "beamclip: views.custom.mine.grey is now views.custom.mine.gray; the old name still works",
    ]


def test_a_sweep_of_a_script_takes_old_names(capsys):
    variants = {
        "a": {"optimiser": {"lr": 0.1}},
        "b": {"optimiser.lr": 0.2, "student.drawn": "torch"},
    }
    space = {"variant": choice("a", "b"), "optimiser.momentum": choice(0.5)}
    sweep = Sweep(name="s", space=space, variants=variants)
    assert sweep.variants == {
        "a": {"optimizer.lr": 0.1},
        "b": {"optimizer.lr": 0.2, "student.weight_init": "torch"},
    }
    assert list(sweep.space) == ["variant", "optimizer.momentum"]
    assert "optimiser.momentum is now optimizer.momentum" in capsys.readouterr().err


def test_a_trial_that_tune_kept_with_old_names_is_the_same_trial(capsys):
    base = load_experiment("demo")
    sweep = Sweep(name="s", space={"optimizer.lr": choice(0.1), "seed": choice(3)})
    kept = trial_experiment(sweep, base, {"optimiser.lr": 0.1, "seed": 3})
    assert kept == trial_experiment(sweep, base, {"optimizer.lr": 0.1, "seed": 3})
    assert capsys.readouterr().err == ""


def test_stored_settings_with_old_names_are_read_silently(capsys):
    stored = load_experiment("demo").model_dump(mode="json")
    stored["optimiser"] = stored.pop("optimizer")
    stored["student"]["drawn"] = stored["student"].pop("weight_init")
    stored["probe"]["grid"]["normalisation"] = ["standardise", "l2"]
    del stored["probe"]["grid"]["normalization"]
    assert validate(Experiment, stored) == load_experiment("demo")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "read",
    [
        lambda path: load_experiment(path),
        lambda path: parse_assignments(["optimiser.lr=1", "optimizer.lr=2"]),
        lambda path: load_experiment("demo", {"optimizer.lr": 2, "optimiser.lr": 1}),
        lambda path: validate(
            Sweep, {"name": "s", "variants": {"a": {"optimiser.lr": 1, "optimizer.lr": 2}}}
        ),
    ],
)
def test_an_old_and_a_new_name_together_are_a_user_error(tmp_path, read):
    preset = tmp_path / "mine.yaml"
    preset.write_text("optimizer: {lr: 1}\noptimiser: {epochs: 3}\n")
    with pytest.raises(UserError) as caught:
        read(str(preset))
    assert "given twice, under its old name and its new one; keep optimizer" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"optimizer.lr": 1, "optimiser": {"lr": 2}}, "optimizer.lr"),
        ({"optimiser.lr": 1, "optimizer": {"lr": 2}}, "optimizer.lr"),
        ({"optimizer": {"lr": 1}, "optimizer.lr": 2}, "optimizer.lr"),
        (
            {"probe": {"grid.normalization": ["l2"], "grid": {"normalisation": ["l2"]}}},
            "probe.grid.no",
        ),
    ],
)
def test_a_variant_gives_a_setting_once_at_any_depth(settings, key):
    space = {"variant": choice("a")}
    with pytest.raises(UserError, match=rf"^Sweep: variants: variant a gives {key}\w* twice, "):
        Sweep(name="s", space=space, variants={"a": settings})
    fine = {"optimizer.lr": 1, "optimiser": {"epochs": 2}}
    both = {"optimizer.lr": 1, "optimizer.epochs": 2}
    assert Sweep(name="s", space=space, variants={"a": fine}).variants == {"a": both}


def test_a_new_name_overrides_an_old_one_of_the_preset(tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text(OLD_YAML)
    assert load_experiment(str(preset), {"optimizer.lr": 0.25}).optimizer.lr == 0.25


def test_a_recipe_whose_name_has_a_dot_may_have_the_old_spelling():
    values = {"views.custom": {"a.b": {"grey": 0.2}}, "views.recipe": "a.b"}
    assert load_experiment("demo", values).views.custom["a.b"].gray == 0.2

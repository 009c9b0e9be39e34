import re
import subprocess
import sys

import numpy as np
import pytest

from beamclip.config import (
    Asha,
    Sweep,
    UserError,
    check_space,
    choice,
    init_experiment,
    load_experiment,
    loguniform,
    planned_values,
    trial_count,
    trial_experiment,
    uniform,
    validate,
)


def test_a_grid_has_a_trial_for_every_combination():
    sweep = Sweep(name="s", space={"a.b": choice(1, 2, 3), "c.d": choice("x", "y")})
    assert trial_count(sweep) == 6
    assert planned_values(sweep)[1] == {"a.b": 1, "c.d": "y"}


def test_ranges_are_left_out_of_the_plan():
    space = {"optimizer.lr": loguniform(1e-4, 1e-1), "views.recipe": choice("weak", "simclr")}
    sweep = Sweep(name="s", search="random", trials=5, space=space)
    assert planned_values(sweep) == [{"views.recipe": "weak"}, {"views.recipe": "simclr"}]
    assert trial_count(sweep) == 5


def test_an_empty_space_is_one_trial():
    assert planned_values(Sweep(name="one")) == [{}]
    assert trial_count(Sweep(name="one")) == 1


def test_a_grid_over_a_range_and_a_test_metric_are_refused():
    with pytest.raises(ValueError, match="a grid needs listed values"):
        Sweep(name="s", space={"optimizer.lr": uniform(0.1, 0.2)})
    with pytest.raises(ValueError, match="choose a metric on val"):
        Sweep(name="s", metric="linear_probe/test_top1")


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"objective.temperature": choice(0.1)}, "did you mean"),
        ({"scaling.workers": choice(1, 3)}, r"in the trial scaling.workers=3"),
        ({"objective.teacher_temperature": choice(0.1, 0.0)}, "greater than 0"),
    ],
)
def test_a_bad_combination_of_values_is_found_before_anything_starts(space, says):
    with pytest.raises(UserError, match=says):
        check_space(Sweep(name="s", space=space), load_experiment("demo"))


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_more_random_trials_than_combinations_are_refused(search):
    space, base = {"seed": choice(0, 1), "views.stored": choice(1, 2)}, load_experiment("demo")
    with pytest.raises(
        UserError, match=f"search={search} would draw 5 trials from 4 combinations.*use search=grid"
    ):
        check_space(Sweep(name="s", search=search, trials=5, space=space), base)
    check_space(Sweep(name="s", search=search, trials=4, space=space), base)
    check_space(
        Sweep(name="s", search=search, trials=5, space=space | {"optimizer.lr": uniform(0.1, 0.2)}),
        base,
    )


def test_asha_needs_a_metric_of_every_epoch():
    space = {"objective.name": choice("csm", "swav")}
    check_space(Sweep(name="s", space=space), load_experiment("demo"))
    with pytest.raises(UserError, match="ASHA.*leave ASHA out"):
        check_space(Sweep(name="s", space=space, asha=Asha()), load_experiment("demo"))


def test_both_ends_of_a_range_are_checked():
    sweep = Sweep(name="s", search="random", space={"optimizer.momentum": uniform(0.5, 1.5)})
    with pytest.raises(UserError, match=r"optimizer.momentum=1.5"):
        check_space(sweep, load_experiment("demo"))


def test_settings_that_change_stores_cannot_be_drawn_from_a_range():
    sweep = Sweep(name="s", search="random", space={"data.val_fraction": uniform(0.1, 0.2)})
    with pytest.raises(UserError, match="decides which stores are built"):
        check_space(sweep, load_experiment("demo"))


@pytest.mark.slow
def test_config_and_command_line_import_no_torch_and_no_ray():
    code = (
        "import sys, beamclip.config, beamclip.sweep.runner, beamclip.cli.main; "
        "sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


VARIANTS = {
    "a": {"objective.name": "simclr", "optimizer.lr": 0.5},
    "b": {"objective.name": "csm", "student.init": "variant:a"},
}


def varied(**settings):
    space = {"variant": choice("a", "b"), "seed": choice(0, 1)}
    return Sweep(**{"name": "s", "variants": VARIANTS, "space": space} | settings)


def test_values_of_the_space_override_those_of_a_variant():
    sweep, base = (
        varied(space={"variant": choice("a", "b"), "optimizer.lr": choice(0.1)}),
        load_experiment("demo"),
    )
    one = trial_experiment(sweep, base, {"variant": "a", "optimizer.lr": 0.1})
    assert (one.objective.name, one.optimizer.lr) == ("simclr", 0.1)
    assert trial_experiment(varied(), base, {"variant": "a"}).optimizer.lr == 0.5
    assert set(sweep.varied) == {"variant", "optimizer.lr", "objective.name", "student.init"}


def test_a_trial_starts_from_the_variant_listed_before_it_with_the_same_values():
    base = load_experiment("demo")
    assert init_experiment(varied(), base, {"variant": "a", "seed": 1}) is None
    assert init_experiment(varied(), base, {"variant": "b", "seed": 1}) == trial_experiment(
        varied(), base, {"variant": "a", "seed": 1}
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"space": {"variant": choice("b", "a")}}, "list a first"),
        ({"space": {"variant": choice("b")}}, "list a first"),
        ({"search": "random", "trials": 2}, "only a grid"),
        ({"asha": Asha(), "variants": VARIANTS | {"a": {"objective.name": "csm"}}}, "only a grid"),
    ],
)
def test_an_initial_student_that_no_trial_makes_is_found_before_anything_starts(settings, says):
    with pytest.raises(UserError, match=says):
        check_space(varied(**settings), load_experiment("demo"))


def test_a_variant_may_be_nested_like_a_preset_and_settings_that_are_mappings_are_not_flattened():
    """A class name may contain dots, but it is not a dotted key."""
    senses = {"St. Bernard": "a dog"}
    nested = {
        "objective": {"name": "simclr", "simclr": {"temperature": 0.3}},
        "anchors": {"senses": senses},
        "optimizer.lr": 0.5,
    }
    sweep = varied(variants={"a": nested, "b": {"student": {"init": "variant:a"}}})
    flat = {
        "objective.name": "simclr",
        "objective.simclr.temperature": 0.3,
        "anchors.senses": senses,
        "optimizer.lr": 0.5,
    }
    assert sweep.variants == {"a": flat, "b": {"student.init": "variant:a"}}
    assert {"objective.name", "student.init"} <= set(sweep.varied)
    one = trial_experiment(sweep, load_experiment("demo"), {"variant": "a"})
    assert (one.objective.name, one.anchors.senses, one.optimizer.lr) == ("simclr", senses, 0.5)
    with pytest.raises(UserError, match=r"optimizer.speed is not a setting"):
        check_space(
            varied(variants={"a": {"optimizer": {"speed": 1}}, "b": {}}), load_experiment("demo")
        )


def test_numpy_numbers_become_those_of_python():
    values = choice(*np.arange(2), np.float64(0.5), True).values
    assert values == (0, 1, 0.5, True)
    assert [type(value) for value in values[:2]] == [int, int] and values[3] is True


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda: choice([1, 2]), "choice: values: [1, 2] can't be tried as one value; give"),
        (lambda: choice(), "choice: values has 0 values, but needs 1 or more"),
        (lambda: loguniform(0, 1), "uniform: a range from 0.0 to 1.0 has no logarithm"),
        (lambda: Asha(grace=2), "Asha: grace is not a setting; did you mean grace_epochs?"),
        (lambda: Sweep(), "Sweep: name is not given"),
        (lambda: Sweep(name="a b/c"), "Sweep: name: 'a b/c' can't be the name of a folder; use"),
        (lambda: Sweep(name="s", quetion="?"), "Sweep: quetion is not a setting; did you mean q"),
        (
            lambda: Sweep(name="s", space={"optimizer.lr": [0.1, 0.2]}),
            "Sweep: space.optimizer.lr is [0.1, 0.2]; write its values in a script as choice(",
        ),
    ],
)
def test_a_mistake_in_a_script_s_own_lines_is_one_sentence(declare, says):
    with pytest.raises(UserError, match=f"^{re.escape(says)}[^\n]*$"):
        declare()


def test_a_stored_sweep_is_the_sweep_that_was_written():
    """Validation of a tree must not go the way of Python's arguments, which takes no lists."""
    written = varied(search="random", space=varied().space | {"optimizer.lr": uniform(0, 1)})
    assert validate(Sweep, written.model_dump(mode="json")) == written


@pytest.mark.parametrize("name", [".", ".."])
def test_a_sweep_name_that_means_an_existing_folder_is_refused(name):
    with pytest.raises(
        UserError,
        match=rf"^name: {re.escape(name)} means a folder that exists already; use letters",
    ):
        validate(Sweep, {"name": name})
    assert Sweep(name=f"{name}a").name == f"{name}a"


def test_variants_and_the_space_name_each_other():
    with pytest.raises(ValueError, match="variant c does not exist"):
        varied(space={"variant": choice("a", "c")})
    with pytest.raises(ValueError, match="no trial takes a variant"):
        varied(space={})
    with pytest.raises(UserError, match=r"optimizer.speed.*in the trial variant=a"):
        check_space(
            varied(variants={"a": {"optimizer.speed": 1}, "b": {}}), load_experiment("demo")
        )

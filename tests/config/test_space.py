import pytest

from beamclip.cli import main as cli
from beamclip.cli import options
from beamclip.config import (
    Sweep,
    UserError,
    check_space,
    choice,
    load_experiment,
    loguniform,
    planned_values,
    uniform,
    validate,
)
from beamclip.config.space import with_seeds


def swept(**dimension):
    return {"name": "s", "search": "random", "space": {"optimizer.lr": dimension}}


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_both_ends_of_a_range_must_be_finite(end, number):
    with pytest.raises(UserError, match=rf"space.optimizer.lr.uniform.{end} is .*finite number"):
        validate(Sweep, swept(kind="uniform", **({"low": 0.1, "high": 0.2} | {end: number})))


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_values_that_are_not_finite_can_not_be_listed(number):
    with pytest.raises(
        UserError,
        match=r"space.optimizer.lr.choice.values: (inf|nan) can't be tried; give a finite",
    ):
        validate(Sweep, swept(kind="choice", values=[0.1, number]))


def test_listed_values_keep_their_types():
    values = [True, 1, 1.5, "a", None]
    assert validate(Sweep, swept(kind="choice", values=values)).space["optimizer.lr"] == choice(
        *values
    )
    assert validate(Sweep, swept(kind="uniform", low=0.1, high=1, log=True)).space[
        "optimizer.lr"
    ] == loguniform(0.1, 1.0)
    with pytest.raises(UserError, match="space.optimizer.lr.choice.values is 3; write a list"):
        validate(Sweep, swept(kind="choice", values=3))


@pytest.mark.parametrize(
    "key",
    [
        "optimizer.lr",
        "optimizer.weight_decay",
        "objective.student_temperature",
        "probe.knn_temperature",
    ],
)
@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_every_setting_must_be_finite(key, number):
    with pytest.raises(UserError, match=f"{key} is {number}: input should be a finite number"):
        load_experiment("demo", {key: number})


TAU_T = "objective.teacher_temperature"
SWEEP = Sweep(name="s", question="why?", space={TAU_T: choice(0.05, 0.2)})


def test_every_combination_is_repeated_with_seeds_that_start_at_the_experiment_s():
    seeded = with_seeds(SWEEP, load_experiment("demo", {"seed": 5}), 3)
    cells = [(values[TAU_T], values["seed"]) for values in planned_values(seeded)]
    assert cells == [(tau, seed) for tau in (0.05, 0.2) for seed in (5, 6, 7)]
    assert (seeded.name, seeded.question) == ("s", "why?")
    assert "seed" not in SWEEP.space


@pytest.mark.parametrize(
    ("sweep", "count", "says"),
    [
        (Sweep(name="s", space={"seed": choice(1, 2)}), 3, "sweep s varies seed already"),
        (
            Sweep(name="s", space={"variant": choice("a")}, variants={"a": {"seed": 3}}),
            2,
            "sweep s varies seed already",
        ),
        (SWEEP, 0, "--seeds is 0"),
        (Sweep(name="s", search="random", space={TAU_T: uniform(0.1, 0.2)}), 2, "search is random"),
    ],
)
def test_a_sweep_that_can_not_be_repeated_over_seeds_is_refused(sweep, count, says):
    with pytest.raises(UserError, match=says) as caught:
        with_seeds(sweep, load_experiment("demo"), count)
    assert "\n" not in str(caught.value)


@pytest.fixture
def asked(monkeypatch):
    """Record the sweeps that would be run or planned."""
    found = []
    monkeypatch.setattr(
        options,
        "run_sweep",
        lambda sweep, base, resume, repair, moved: found.append(("run", sweep)),
    )
    monkeypatch.setattr(options, "plan_sweep", lambda sweep, base: found.append(("plan", sweep)))
    return found


def ended(call, *arguments):
    with pytest.raises(SystemExit) as caught:
        call(*arguments)
    return caught.value.code


@pytest.mark.parametrize("plan", [[], ["--plan"]])
def test_scripts_and_commands_take_seeds(asked, plan):
    assert ended(cli.sweep_main, SWEEP, ["--seeds", "2", *plan]) == 0
    assert ended(cli.main, ["train", "--seeds", "2", "--set", "seed=1", *plan]) == 0
    assert ended(cli.main, ["sweep", "--seeds", "2", "--space", f"{TAU_T}=[0.1]", *plan]) == 0
    assert [what for what, _ in asked] == (["plan"] if plan else ["run"]) * 3
    assert [sweep.space["seed"].values for _, sweep in asked] == [(0, 1), (1, 2), (0, 1)]


def test_resume_refuses_seeds(asked, capsys):
    assert ended(cli.main, ["train", "--seeds", "2", "--resume"]) == 2
    assert "leave --seeds out" in capsys.readouterr().err
    assert asked == []


@pytest.mark.parametrize(
    ("setting", "is_refused"), [("name_loss.margin", False), ("name_loss.clusters", True)]
)
def test_a_range_may_not_decide_which_stores_are_built(tmp_path, setting, is_refused):
    file = tmp_path / "my.py"
    file.write_text(
        "@register_objective(requires=Requirements(clusters=True))\n"
        "def name_loss(inputs, *, margin: float = 0.5, clusters: int = 2):\n    pass\n"
    )
    base = load_experiment("demo", {"objective.name": f"{file}:name_loss"})
    space = {f"objective.{setting}": uniform(1.0, 2.0)}
    sweep = Sweep(name="s", search="random", trials=2, space=space)
    if is_refused:
        with pytest.raises(UserError, match="decides which stores are built"):
            check_space(sweep, base)
    else:
        check_space(sweep, base)

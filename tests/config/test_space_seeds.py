import pytest

from beamclip.cli import main as cli
from beamclip.cli import options
from beamclip.config import Sweep, UserError, choice, load_experiment, planned_values, uniform
from beamclip.config.space import with_seeds

TAU_T = "objective.teacher_temperature"
SWEEP = Sweep(name="s", question="why?", space={TAU_T: choice(0.05, 0.2)})


def test_every_cell_is_repeated_from_the_experiments_seed_on():
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
def test_what_can_not_be_repeated_is_told(sweep, count, says):
    with pytest.raises(UserError, match=says) as caught:
        with_seeds(sweep, load_experiment("demo"), count)
    assert "\n" not in str(caught.value)


@pytest.fixture
def asked(monkeypatch):
    """What would be run or planned."""
    found = []
    monkeypatch.setattr(
        options, "run_sweep", lambda sweep, base, resume, repair: found.append(("run", sweep))
    )
    monkeypatch.setattr(options, "plan_sweep", lambda sweep, base: found.append(("plan", sweep)))
    return found


def ended(call, *arguments):
    with pytest.raises(SystemExit) as caught:
        call(*arguments)
    return caught.value.code


@pytest.mark.parametrize("plan", [[], ["--plan"]])
def test_scripts_and_verbs_take_seeds(asked, plan):
    assert ended(cli.sweep_main, SWEEP, ["--seeds", "2", *plan]) == 0
    assert ended(cli.main, ["train", "--seeds", "2", "--set", "seed=1", *plan]) == 0
    assert ended(cli.main, ["sweep", "--seeds", "2", "--space", f"{TAU_T}=[0.1]", *plan]) == 0
    assert [what for what, _ in asked] == (["plan"] if plan else ["run"]) * 3
    assert [sweep.space["seed"].values for _, sweep in asked] == [(0, 1), (1, 2), (0, 1)]


def test_a_resumed_sweep_has_its_seeds_already(asked, capsys):
    assert ended(cli.main, ["train", "--seeds", "2", "--resume"]) == 2
    assert "leave --seeds out" in capsys.readouterr().err
    assert asked == []

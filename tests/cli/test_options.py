import pytest

from beamclip.cli import main as cli
from beamclip.cli import options

PLAIN = ["train", "--resume"]
SWEEP = ["sweep", "--resume"]


@pytest.fixture
def asked(monkeypatch):
    """What would be run: the sweep, and what to resume."""
    found = []
    monkeypatch.setattr(
        options, "run_sweep", lambda sweep, base, resume, repair: found.append((sweep, resume))
    )
    return found


def ended(arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return caught.value.code


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([*PLAIN, "--workers", "0"], "--workers"),
        ([*PLAIN, "--gpus-per-worker", "0"], "--gpus-per-worker"),
        ([*PLAIN, "--data", ""], "--data"),
        ([*SWEEP, "--search", "random", "--trials", "64"], "--search and --trials"),
        ([*SWEEP, "--search", "grid"], "--search"),
        ([*SWEEP, "--trials", "16"], "--trials"),
        ([*SWEEP, "--question", "why?"], "--question"),
        ([*SWEEP, "--space", "seed=[1]", "--asha"], "--space and --asha"),
    ],
)
def test_whatever_a_resumed_sweep_would_not_heed_is_refused_even_where_it_is_zero_or_the_default(
    asked, capsys, arguments, names
):
    assert ended(arguments) == 2
    assert f"the settings the sweep was started with; leave {names} out" in capsys.readouterr().err
    assert asked == []


@pytest.mark.parametrize("verb", [PLAIN, SWEEP])
def test_where_a_sweep_lies_and_what_it_is_called_may_be_said_of_a_resumed_one(
    asked, tmp_path, verb
):
    """A preset may say where it lies, too."""
    (tmp_path / "mine.yaml").write_text(f"storage: {{path: {tmp_path}}}")
    assert (
        ended(
            [
                *verb,
                "ID",
                "--name",
                "x",
                "--storage",
                str(tmp_path),
                "--preset",
                str(tmp_path / "mine.yaml"),
                "--repair",
            ]
        )
        == 0
    )
    ((sweep, resume),) = asked
    assert (sweep.name, resume) == ("x", "ID")


def test_a_sweep_that_is_told_nothing_else_is_a_grid_and_one_that_is_told_keeps_to_it(asked):
    assert ended(["sweep", "--space", "seed=[1, 2]"]) == 0
    assert (
        ended(
            [
                "sweep",
                "--space",
                "seed=[1, 2]",
                "--search",
                "random",
                "--trials",
                "2",
                "--question",
                "why?",
            ]
        )
        == 0
    )
    assert [(one.search, one.trials, one.question) for one, _ in asked] == [
        ("grid", 16, ""),
        ("random", 2, "why?"),
    ]

import pytest

from beamclip.cli import main as cli
from beamclip.cli import options

PLAIN = ["train", "--resume"]
SWEEP = ["sweep", "--resume"]


@pytest.fixture
def asked(monkeypatch):
    """The sweeps that would be run, each with the id to resume."""
    sweeps = []
    monkeypatch.setattr(
        options,
        "run_sweep",
        lambda sweep, base, resume, repair, moved: sweeps.append((sweep, resume, moved)),
    )
    return sweeps


def ended(arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return caught.value.code


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([*PLAIN, "--workers", "0"], "--workers"),
        ([*PLAIN, "--gpus-per-worker", "0"], "--gpus-per-worker"),
        ([*PLAIN, "--set", "optimizer.lr=0"], "--set optimizer.lr"),
        (
            [*PLAIN, "--set", "data.path=/new", "--set", "data.source=auto", "--workers", "1"],
            "--set data.source and --workers",
        ),
        ([*SWEEP, "--search", "random", "--trials", "64"], "--search and --trials"),
        ([*SWEEP, "--search", "grid"], "--search"),
        ([*SWEEP, "--trials", "16"], "--trials"),
        ([*SWEEP, "--question", "why?"], "--question"),
        ([*SWEEP, "--space", "seed=[1]", "--asha"], "--space and --asha"),
    ],
)
def test_options_that_resume_would_ignore_are_refused_even_if_zero_or_the_default(
    asked, capsys, arguments, names
):
    assert ended(arguments) == 2
    assert f"the settings the sweep was started with; leave {names} out" in capsys.readouterr().err
    assert asked == []


@pytest.mark.parametrize("verb", [PLAIN, SWEEP])
def test_resume_takes_storage_name_and_repair(asked, tmp_path, verb):
    """A preset may name the storage, too."""
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
    ((sweep, resume, moved),) = asked
    assert (sweep.name, resume, moved) == ("x", "ID", {})


def test_resume_takes_new_places_of_inputs(asked):
    words = ["--data", "/new/images", "--set", "teacher.model=local-dir:/new/teacher"]
    words += ["--set", "data.class_names=/new/names.txt"]
    words += ["--set", "teacher.others=[{model: 'local-dir:/new/b'}]"]
    assert ended([*SWEEP, *words]) == 0
    ((_, _, moved),) = asked
    assert moved == {
        "data.path": "/new/images",
        "teacher.model": "local-dir:/new/teacher",
        "data.class_names": "/new/names.txt",
        "teacher.others": [{"model": "local-dir:/new/b"}],
    }


def test_a_sweep_is_a_grid_unless_the_options_say_otherwise(asked):
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
    assert [(sweep.search, sweep.trials, sweep.question) for sweep, _, _ in asked] == [
        ("grid", 16, ""),
        ("random", 2, "why?"),
    ]


@pytest.mark.parametrize("verb", ["compare", "report"])
def test_commands_on_finished_sweeps_list_and_take_only_what_they_use(capsys, verb, tmp_path):
    assert ended([verb, "--help"]) == 0
    printed = capsys.readouterr().out
    assert "--storage" in printed and "--tracking-uri" in printed
    for unused in ("--data", "--workers", "--gpus-per-worker", "optimizer.lr"):
        assert unused not in printed
    assert ended([verb, "s", "--workers", "2"]) == 2
    assert "unrecognized arguments: --workers 2" in capsys.readouterr().err
    assert ended([verb, "s", "--set", "optimizer.lr=1"]) == 2
    says = "beamclip: --set optimizer.lr changes nothing here: a finished sweep keeps its settings"
    assert capsys.readouterr().err.startswith(says)
    assert ended([verb, "s", "--set", "storag.path=x"]) == 2
    assert "storag is not a setting; did you mean storage.path" in capsys.readouterr().err
    # The storage is used: it has no such sweep.
    assert ended([verb, "s", "--set", f"storage.path={tmp_path}"]) == 2
    assert "changes nothing" not in capsys.readouterr().err

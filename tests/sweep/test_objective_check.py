"""Users' objectives are tried before a sweep starts, and must be the same when it is resumed."""

import pytest

from beamclip.config import Sweep, UserError, choice, load_experiment
from beamclip.stores.absolute import absolute_paths
from beamclip.sweep.objective_check import check_files_unchanged, check_own_objectives

HEAD = """
from beamclip import Requirements, register_objective

@register_objective(requires=Requirements(projected=True, embeddings=True))
def my_loss(inputs, *, power: int = 2):
    """
GOOD = 'return {"loss": (inputs.embeddings - inputs.teachers[0]).pow(power).mean()}\n'


def sweep_of(tmp_path, body):
    (tmp_path / "my_losses.py").write_text(HEAD + body)
    sweep = Sweep(name="own", space={"objective.name": choice("csm", "./my_losses.py:my_loss")})
    return absolute_paths(sweep, load_experiment("demo"))


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_paths_become_absolute_and_the_text_travels_with_the_settings(tmp_path):
    sweep, base = sweep_of(tmp_path, GOOD)
    path = str(tmp_path / "my_losses.py")
    assert sweep.space["objective.name"].values == ("csm", f"{path}:my_loss")
    assert base.objective.code == {path: HEAD + GOOD}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (GOOD, None),
        ('return {"loss": inputs.embedings.mean()}\n', "has no attribute 'embedings'"),
        ('return {"los": inputs.embeddings.mean()}\n', "returns 'los', but no \"loss\""),
        ("return inputs.embeddings.mean()\n", 'returns Tensor; return a dict with "loss"'),
        ('return {"loss": inputs.embeddings}\n', "returns loss, but not as a tensor"),
        ('return {"loss": inputs.teachers[0].mean()}\n', "returns a loss without a gradient"),
        (
            'loss = inputs.embeddings.mean()\n    return {"loss": loss, "far (%)": loss}\n',
            "returns 'far (%)', which MLflow can't take as the name of a metric",
        ),
        ("return 1 / 0\n", "ZeroDivisionError: division by zero (my_losses.py, line 6)"),
    ],
)
def test_an_objective_is_called_once_on_random_tensors(tmp_path, body, sentence):
    sweep, base = sweep_of(tmp_path, body)
    if sentence is None:
        check_own_objectives(sweep, base)
        return
    with pytest.raises(UserError) as caught:
        check_own_objectives(sweep, base)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_every_value_of_a_setting_is_tried(tmp_path):
    sweep, base = sweep_of(tmp_path, "assert power < 3, 'power is too high'\n    " + GOOD)
    name = "./my_losses.py:my_loss"
    sweep = Sweep(name="own", space={"objective.my_loss.power": choice(2, 3)})
    sweep, base = absolute_paths(sweep, load_experiment("demo", {"objective.name": name}))
    with pytest.raises(UserError, match="AssertionError: power is too high"):
        check_own_objectives(sweep, base)


def test_built_in_objectives_are_not_tried(monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("nothing to try"))
    check_own_objectives(
        Sweep(name="built_in", space={"objective.name": choice("csm", "simclr")}),
        load_experiment("demo", {"views.recipe": "weak"}),
    )


def test_a_resumed_sweep_runs_the_code_it_began_with(tmp_path):
    sweep, base = sweep_of(tmp_path, GOOD)
    file = tmp_path / "my_losses.py"
    check_files_unchanged(sweep, base, "/elsewhere")
    with pytest.raises(UserError, match="is in the sweep's own folder; move it out"):
        check_files_unchanged(sweep, base, str(tmp_path))
    file.write_text(HEAD + GOOD + "# changed\n")
    with pytest.raises(UserError, match="has changed since the sweep began; restore it"):
        check_files_unchanged(sweep, base, "/elsewhere")
    file.unlink()
    with pytest.raises(UserError, match="is gone; put it back to resume the sweep"):
        check_files_unchanged(sweep, base, "/elsewhere")


def test_a_record_that_names_a_file_without_its_text_is_refused(tmp_path):
    _, base = sweep_of(tmp_path, GOOD)
    (tmp_path / "other.py").write_text(HEAD + GOOD)
    name = f"{tmp_path}/other.py:my_loss"
    other = Sweep(name="own", space={"objective.name": choice("csm", name)})
    with pytest.raises(UserError, match="the sweep's record has no text of .*other.py; start a ne"):
        check_files_unchanged(other, base, str(tmp_path / "sweep"))


def test_a_link_into_the_sweeps_folder_is_refused(tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/real.py").write_text(HEAD + GOOD)
    (tmp_path / "my_losses.py").symlink_to(tmp_path / "sweep/real.py")
    sweep = Sweep(name="own", space={"objective.name": choice("csm", "./my_losses.py:my_loss")})
    sweep, base = absolute_paths(sweep, load_experiment("demo"))
    with pytest.raises(UserError, match="is in the sweep's own folder; move it out"):
        check_files_unchanged(sweep, base, str(tmp_path / "sweep"))


@pytest.mark.slow
def test_files_that_exit_or_are_next_to_a_module_of_the_same_name_are_checked(tmp_path):
    sweep, base = sweep_of(tmp_path, GOOD)
    (tmp_path / "random.py").write_text("raise RuntimeError('not the one of Python')\n")
    check_own_objectives(sweep, base)
    sweep, base = sweep_of(tmp_path, GOOD + "\nimport sys\nsys.exit(0)\n")
    with pytest.raises(UserError, match="SystemExit"):
        check_own_objectives(sweep, base)


@pytest.mark.slow
def test_a_crash_of_python_is_a_user_error(tmp_path):
    sweep, base = sweep_of(tmp_path, "import os\n    os.abort()\n")
    with pytest.raises(UserError, match="my_loss crashed Python with signal 6"):
        check_own_objectives(sweep, base)

"""Test every script in `sweeps/`, so that all of them keep up with changes of settings."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import tiny

from beamclip.config import (
    check_space,
    load_experiment,
    planned_values,
    preset_names,
    trial_count,
    trial_experiment,
)
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.plan import plan

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "sweeps").glob("*.py"))


def load_script(path):
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_scripts():
    assert {"csm_temp", "augmentations"} <= {path.stem for path in SCRIPTS}


@pytest.fixture(params=SCRIPTS, ids=lambda path: path.stem)
def script(request):
    return request.param


def test_a_script_has_a_question_a_space_and_its_command(script):
    module = load_script(script)
    assert module.SWEEP.name == script.stem
    assert module.SWEEP.question.endswith("?")
    assert trial_count(module.SWEEP) > 1
    assert f"python sweeps/{script.name}" in module.__doc__


@pytest.mark.parametrize("preset_name", preset_names())
def test_every_trial_is_valid_with_every_preset(script, preset_name):
    check_space(load_script(script).SWEEP, load_experiment(preset_name))


def test_planning_without_stores_writes_no_store(script, preset, tmp_path):
    base = tiny.experiment(preset, tmp_path)
    sweep = load_script(script).SWEEP
    planned_stores = plan(
        [trial_experiment(sweep, base, values) for values in planned_values(sweep)],
        PreparationContext(tmp_path / "stores"),
    )
    assert {planned.store for planned in planned_stores} >= {"images", "embeddings", "anchors"}
    assert not any(planned.exists for planned in planned_stores)
    assert not list(tmp_path.rglob("manifest.json"))


def run_script(path, *arguments, typed=""):
    command = [sys.executable, str(path), *arguments]
    return subprocess.run(
        command,
        input=typed,
        capture_output=True,
        text=True,
        cwd=ROOT,
        # Python puts a script's own folder on the path, not the current one.
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )


@pytest.mark.slow
def test_the_script_is_a_command(script):
    result = run_script(script, "--set", "objective.name=other")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("beamclip: objective.name: objective other does not exist")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("choice([1, 2])", "choice: values: [1, 2] can't be tried as one value"),
        ("Sweep(name='a b/c')", "Sweep: name: 'a b/c' can't be the name of a folder"),
        ("Sweep(name='s', quetion='?')", "Sweep: quetion is not a setting; did you mean question?"),
    ],
)
def test_a_mistake_outside_of_sweep_main_is_printed_without_a_traceback(line, says, tmp_path):
    own_script = tmp_path / "mine.py"
    own_script.write_text(f"from beamclip import Sweep, choice, sweep_main\n{line}\n")
    result = run_script(own_script)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"beamclip: {says}") and result.stderr.count("\n") == 1


def test_a_mistake_does_not_end_an_interactive_session():
    lines = ["from beamclip import Sweep, sweep_main", "Sweep(name='a b/c')", "print('goes on')"]
    result = run_script("-i", typed="\n".join([*lines, ""]))
    assert (result.returncode, result.stdout) == (0, "goes on\n")
    assert "beamclip: Sweep: name: 'a b/c'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_bug_outside_of_sweep_main_keeps_its_traceback(tmp_path):
    own_script = tmp_path / "mine.py"
    own_script.write_text("from beamclip import sweep_main\n1 / 0\n")
    result = run_script(own_script)
    assert result.returncode == 1 and "Traceback" in result.stderr


def test_augmentations_take_four_passes_of_two_views(preset, tmp_path):
    """Check the cost that the script's docstring states."""
    base = tiny.experiment(preset, tmp_path)
    sweep = load_script(ROOT / "sweeps" / "augmentations.py").SWEEP
    planned_stores = plan(
        [trial_experiment(sweep, base, values) for values in planned_values(sweep)],
        PreparationContext(tmp_path / "stores"),
    )
    images = [planned.images for planned in planned_stores if planned.store == "embeddings"]
    assert trial_count(sweep) == 8
    assert sorted(images) == [56, *[2 * 144] * 4]

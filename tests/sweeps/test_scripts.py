"""Every script in `sweeps/`, so that none is left behind when settings change."""

import importlib.util
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


def loaded(path):
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_scripts():
    assert {"csm_temp", "augmentations"} <= {path.stem for path in SCRIPTS}


@pytest.fixture(params=SCRIPTS, ids=lambda path: path.stem)
def script(request):
    return request.param


def test_a_script_is_a_question_with_a_space_and_says_how_to_run_it(script):
    module = loaded(script)
    assert module.SWEEP.name == script.stem
    assert module.SWEEP.question.endswith("?")
    assert trial_count(module.SWEEP) > 1
    assert f"python sweeps/{script.name}" in module.__doc__


@pytest.mark.parametrize("preset_name", preset_names())
def test_every_cell_is_an_experiment_with_every_preset(script, preset_name):
    check_space(loaded(script).SWEEP, load_experiment(preset_name))


def test_it_plans_from_nothing_and_makes_nothing(script, preset, tmp_path):
    base, sweep = tiny.experiment(preset, tmp_path), loaded(script).SWEEP
    needs = plan(
        [trial_experiment(sweep, base, values) for values in planned_values(sweep)],
        PreparationContext(tmp_path / "stores"),
    )
    assert {need.store for need in needs} >= {"images", "embeddings", "anchors"}
    assert not any(need.there for need in needs)
    assert not list(tmp_path.rglob("manifest.json"))


def test_it_is_a_command(script):
    command = [sys.executable, str(script), "--set", "objective.name=other"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("beamclip: objective.name: objective other does not exist")


def test_augmentations_take_four_passes_of_two_views(preset, tmp_path):
    """As its docstring says."""
    base, sweep = (
        tiny.experiment(preset, tmp_path),
        loaded(ROOT / "sweeps" / "augmentations.py").SWEEP,
    )
    needs = plan(
        [trial_experiment(sweep, base, values) for values in planned_values(sweep)],
        PreparationContext(tmp_path / "stores"),
    )
    images = sorted(need.images for need in needs if need.store == "embeddings")
    assert (trial_count(sweep), images) == (8, [56, *[2 * 144] * 4])

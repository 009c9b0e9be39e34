"""Run the static checks: the layers of imports, the style and the types."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def assert_passes(program, *arguments):
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_imports_follow_the_layers():
    assert_passes("lint-imports")


def test_code_passes_ruff():
    assert_passes("ruff", "check", "beamclip", "sweeps", "tests")


@pytest.mark.slow
def test_code_passes_mypy():
    assert_passes("mypy", "--strict")

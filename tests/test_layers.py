"""The rules that a reader of one file relies on: imports point one way, one style, types that hold."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def passes(program, *arguments):
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_imports_point_one_way():
    passes("lint-imports")


def test_one_style():
    passes("ruff", "check", "beamclip", "sweeps", "tests")


@pytest.mark.slow
def test_types_hold():
    passes("mypy", "--strict")

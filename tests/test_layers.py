"""Run the static checks: the layers of imports, the style and the types."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def assert_passes(program, *arguments):
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_imports_point_one_way():
    assert_passes("lint-imports")


@pytest.mark.parametrize("package", ["open_clip", "timm", "torch", "torchvision"])
def test_settings_import_nothing_that_loads_torch(package):
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    forbidden = [
        contract["forbidden_modules"]
        for contract in contracts["contracts"]
        if "beamclip.config" in contract.get("source_modules", ())
    ]
    assert any(package in modules for modules in forbidden)


def test_one_style():
    assert_passes("ruff", "check", "beamclip", "sweeps", "tests")


@pytest.mark.slow
def test_types_hold():
    assert_passes("mypy", "--strict")

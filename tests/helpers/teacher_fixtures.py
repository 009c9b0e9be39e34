"""Fixtures that copy the tiny teacher and change its files."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file


@pytest.fixture
def copied_teacher(teacher_folder, tmp_path):
    """Return a copy of the teacher's folder that a test may change."""
    return shutil.copytree(teacher_folder, tmp_path / "tiny_teacher")


@pytest.fixture
def change_config(copied_teacher):
    """Return a function that changes keys of a section of the copied teacher's configuration.

    Example: `change_config("preprocess_cfg", size=16)`. It returns the folder.
    """

    def change(section, **values):
        path = copied_teacher / "open_clip_config.json"
        content = json.loads(path.read_text())
        content[section] |= values
        path.write_text(json.dumps(content))
        return copied_teacher

    return change


@pytest.fixture
def change_weight(copied_teacher):
    """Return a function that changes one number of one of the copied teacher's weights.

    It returns the folder.
    """

    def change(name):
        path = copied_teacher / "open_clip_model.safetensors"
        weights = load_file(path)
        weights[name].view(-1)[0] += 1e-4
        save_file(weights, path)
        return copied_teacher

    return change

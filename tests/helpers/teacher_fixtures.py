import json
import shutil

import pytest
from safetensors.torch import load_file, save_file


@pytest.fixture
def copied(teacher_folder, tmp_path):
    """A teacher's folder that a test may spoil."""
    return shutil.copytree(teacher_folder, tmp_path / "tiny_teacher")


@pytest.fixture
def change_config(copied):
    """Change keys of one section of the configuration: `change_config("preprocess_cfg", size=16)`."""

    def change(section, **values):
        path = copied / "open_clip_config.json"
        content = json.loads(path.read_text())
        content[section] |= values
        path.write_text(json.dumps(content))
        return copied

    return change


@pytest.fixture
def change_weight(copied):
    """Change one number of one weight."""

    def change(name):
        path = copied / "open_clip_model.safetensors"
        weights = load_file(path)
        weights[name].view(-1)[0] += 1e-4
        save_file(weights, path)
        return copied

    return change

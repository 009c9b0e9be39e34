"""`beamclip pack`, `embed` and `sweep --plan` as a user types them."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray
BEAMCLIP = str(Path(sys.executable).with_name("beamclip"))


@pytest.fixture(scope="module")
def environment():
    folder = tempfile.mkdtemp(prefix="bc", dir="/tmp")
    yield os.environ | {"RAY_ADDRESS": "local", "RAY_TMPDIR": folder, "COLUMNS": "160"}
    shutil.rmtree(folder, ignore_errors=True)


def test_plan_pack_and_embed_commands_work(environment, preset, tmp_path):
    def run(*words):
        words = [
            BEAMCLIP,
            *words,
            "--preset",
            str(preset),
            "--storage",
            str(tmp_path),
            "--set",
            "data.encoding=jpeg",
        ]
        result = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert result.returncode == 0, result.stderr
        return result

    planned = run("sweep", "--plan", "--space", "objective.student_temperature=[0.1, 0.2]").stderr
    assert (
        "200 images, 32 px jpeg" in planned
        and "about 144 images" in planned
        and planned.count("to build") == 4
    )
    assert "2 trials, " in planned and " at once" in planned
    assert not list(tmp_path.rglob("manifest.json")) and not list(tmp_path.rglob("mlflow.db"))
    packed = run("pack")
    assert (
        "200 images, 32 px jpeg: about " in packed.stdout
        and "packed 200 images, " in packed.stdout
        and re.search(r": (\d+)/\1\b", packed.stderr)
    )
    embedded = run("embed", "--verify", "40")
    assert "the teacher encoded 200 images now" in embedded.stdout
    assert (
        embedded.stdout.count("stored and new embeddings of tiny agree: cosine at least ") == 2
        and "over 40 views encoded again" in embedded.stdout
    )
    planned = run("sweep", "--plan", "--space", "objective.student_temperature=[0.1, 0.2]").stderr
    assert "to build" not in planned and "200 images, 32 px jpeg" in planned

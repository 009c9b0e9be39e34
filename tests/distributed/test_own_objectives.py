"""An objective from a user's file in a real sweep: in Ray's workers, and in a resumed sweep."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from mlflow import MlflowClient

pytestmark = pytest.mark.ray
BEAMCLIP = str(Path(sys.executable).with_name("beamclip"))
LOSS = """
from pathlib import Path

import torch.nn.functional as F

from beamclip import Requirements, register_objective


@register_objective(requires=Requirements(projected=True, embeddings=True))
def my_loss(inputs, *, margin: float = 0.0):
    if inputs.count > 4 and margin > 0 and Path("BROKEN").exists():  # not while it is only tried
        raise RuntimeError("broken for now")
    distance = 1 - F.cosine_similarity(inputs.embeddings, inputs.teachers[0], dim=-1)
    return {"loss": F.relu(distance - margin).mean(), "distance": distance.mean()}
"""


@pytest.fixture
def environment():
    """A local cluster, with a short path for Ray's sockets, which allow about 100 letters."""
    folder = tempfile.mkdtemp(prefix="bc", dir="/tmp")
    yield os.environ | {"RAY_ADDRESS": "local", "RAY_TMPDIR": folder, "COLUMNS": "140"}
    shutil.rmtree(folder, ignore_errors=True)


def test_a_users_loss_trains_and_resumes(environment, preset, tmp_path):
    broken = tmp_path / "broken"
    broken.touch()
    file = tmp_path / "my_losses.py"
    text = LOSS.replace("BROKEN", str(broken))
    file.write_text(text)
    storage = tmp_path / "storage"

    def beamclip(*words):
        command = [BEAMCLIP, "sweep", "--name", "own", "--storage", storage, *words]
        return subprocess.run(
            list(map(str, command)),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,  # minutes on two busy cores
            check=False,
        )

    def trials():
        client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
        experiment = client.get_experiment_by_name("own").experiment_id
        runs = client.search_runs([experiment], "tags.kind = 'trial'")
        return {run.data.params["objective.my_loss.margin"]: run for run in runs}

    name = ("--preset", preset, "--set", "objective.name=csm+./my_losses.py:my_loss")
    begun = beamclip(*name, "--space", "objective.my_loss.margin=[0.0, 0.1]")
    assert "trying objective" in begun.stderr, begun.stderr
    assert {key: run.info.status for key, run in trials().items()} == {
        "0.0": "FINISHED",
        "0.1": "FAILED",
    }, begun.stderr
    assert trials()["0.0"].data.tags["method"] == "csm+my_loss"
    assert trials()["0.0"].data.metrics["train/my_loss_distance"] > 0

    broken.unlink()
    file.write_text(text + "# edited\n")
    refused = beamclip("--resume")
    assert refused.returncode == 2
    assert f"the objective's file {file} has changed since the sweep began" in refused.stderr

    file.write_text(text)
    resumed = beamclip("--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert {run.info.status for run in trials().values()} == {"FINISHED"}

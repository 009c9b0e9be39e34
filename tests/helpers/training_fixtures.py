"""Fixtures of the tests of preparation and training: a tiny experiment and its stores."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from beamclip.config import Experiment
from beamclip.preparation.build import prepare
from beamclip.preparation.context import PreparationContext


@pytest.fixture(scope="session")
def experiment(data_config, teacher_folder):
    """Two epochs of eight steps on tiny images; the student has no batch norm."""
    return Experiment.model_validate(
        {
            "data": data_config.model_dump(),
            "views": {"recipe": "weak", "stored": 2},
            "teacher": {"model": f"local-dir:{teacher_folder}", "batch_size": 64},
            "anchors": {"prompt_set": "plain"},
            "student": {"backbone": "test_vit", "image_size": 32, "projector_width": 32},
            "optimizer": {"name": "adamw", "lr": 0.001, "epochs": 2, "batch_size": 16},
            "probe": {
                "grid": {"lr": (0.3,), "weight_decay": (0.1, 0.01)},
                "knn_k": 5,
                "bootstrap": 100,
            },
        }
    )


@pytest.fixture(scope="session")
def stores(tmp_path_factory):
    """The folder of the stores that tests share.

    Tests that count encoded images or damage a store take a copy.
    """
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="session")
def assets(experiment, stores):
    """The experiment's stores: 128 samples for training, 32 for val, 32 for test."""
    return prepare(experiment, PreparationContext(stores))


@pytest.fixture
def copied_stores(stores, assets, tmp_path):
    """A copy of the experiment's stores (and perhaps others) that a test may damage."""
    return shutil.copytree(stores, tmp_path / "stores")


@pytest.fixture
def packed_only(assets, tmp_path):
    """The folder of a run that was stopped after its images were packed."""
    packed = Path(assets.packed)
    shutil.copytree(packed, tmp_path / "packed_only" / "packed" / packed.name)
    return tmp_path / "packed_only"


@pytest.fixture(scope="session")
def other_folder(teacher_folder, tmp_path_factory):
    """Another tiny CLIP with other weights, patches and pixels.

    Its embeddings have 24 dimensions; those of the first have 16.
    """
    import open_clip

    config = json.loads((teacher_folder / "open_clip_config.json").read_text())
    config["model_cfg"] |= {
        "embed_dim": 24,
        "vision_cfg": config["model_cfg"]["vision_cfg"] | {"patch_size": 16, "image_size": 48},
    }
    config["preprocess_cfg"]["mean"] = [0.45, 0.5, 0.55]
    folder = tmp_path_factory.mktemp("other_clip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = open_clip.CLIP(**config["model_cfg"])
        model.visual.conv1.weight.data *= 20
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder

import pytest
import torch

from beamclip.config import Experiment
from beamclip.training.assets import prepare


@pytest.fixture(scope="session")
def experiment(data_config, teacher_folder):
    """Two epochs of eight steps on tiny images, with the tiny teacher and a student without batch statistics."""
    return Experiment.model_validate(
        {
            "data": data_config.model_dump(),
            "views": {"recipe": "weak", "stored": 2},
            "teacher": {"model": f"local-dir:{teacher_folder}"},
            "anchors": {"prompt_set": "plain"},
            "student": {"backbone": "test_vit", "image_size": 32, "projector_width": 32},
            "optimiser": {"name": "adamw", "lr": 0.001, "epochs": 2, "batch_size": 16},
            "probe": {"inverse_l2": (1.0,), "knn_k": 5, "max_iterations": 20},
        }
    )


@pytest.fixture(scope="session")
def stores(tmp_path_factory):
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="session")
def assets(experiment, stores):
    """The experiment's stores: 128 samples for training, 32 for val, 32 for test."""
    return prepare(experiment, stores, torch.device("cpu"))

"""Make the smallest real inputs for tests.

A tree of colored JPEGs, a CLIP of a few thousand weights, and a preset that trains in a second.
"""

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from beamclip.config import Experiment, load_experiment

COLORS = {
    "blue": (30, 40, 200),
    "green": (40, 180, 60),
    "red": (200, 50, 40),
    "yellow": (220, 200, 50),
}
TOWERS = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PREPROCESS = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "size": [32, 32],
}


def make_images(
    folder: Path, train: int = 40, test: int = 10, classes: int = 4, side: int = 40
) -> Path:
    """Write train/CLASS/N.jpg and test/CLASS/N.jpg: one color per class, with noise."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for name in sorted(COLORS)[:classes]:
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                noisy = random.normal(COLORS[name], 40, (side, side, 3))
                pixels = np.clip(noisy, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.jpg")
    return folder


def make_teacher(folder: Path) -> Path:
    """Save a CLIP that has learned the names of the four colors as an open_clip folder."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _train_on_colors()
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": TOWERS, "preprocess_cfg": PREPROCESS})
    )
    return folder


def _train_on_colors(steps: int = 40):
    import open_clip
    import torch

    model = open_clip.CLIP(**TOWERS)
    texts = open_clip.SimpleTokenizer(context_length=16)(
        [f"a photo of a {name}." for name in sorted(COLORS)]
    )
    colors = torch.tensor([COLORS[name] for name in sorted(COLORS)])[:, :, None, None] / 255
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        batch = (colors.repeat(4, 1, 1, 1) + 0.15 * torch.randn(16, 3, 32, 32)).clamp(0, 1)
        image, text, _ = model((batch - 0.5) / 0.25, texts)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(10 * image @ text.T, torch.arange(16) % 4).backward()
        optimizer.step()
    return model


def settings(images: Path, teacher: Path) -> dict:
    """Return the settings of a preset that takes seconds on a CPU from end to end."""
    return {
        "data": {"source": "folder", "path": str(images), "image_size": 32},
        "views": {"recipe": "weak", "stored": 1},
        "teacher": {"model": f"local-dir:{teacher}", "batch_size": 64},
        "anchors": {"prompt_set": "plain"},
        "student": {"backbone": "test_resnet", "image_size": 32, "projector": "linear"},
        "optimizer": {
            "name": "sgd",
            "lr": 0.05,
            "epochs": 2,
            "warmup_epochs": 0.5,
            "batch_size": 32,
        },
        "probe": {"grid": {"lr": [0.3], "weight_decay": [0.1, 0.01]}, "knn_k": 5, "bootstrap": 100},
        "scaling": {"workers": 1, "cpus_per_worker": 0.5},
    }


def write_preset(path: Path, images: Path, teacher: Path) -> Path:
    """Write these settings to a file for --preset and return its path."""
    path.write_text(yaml.safe_dump(settings(images, teacher)))
    return path


def experiment(preset: Path | str, storage: Path, **values) -> Experiment:
    """Load the preset with its own storage; pass settings as `optimizer__lr=0.1`."""
    dotted = {key.replace("__", "."): value for key, value in values.items()}
    return load_experiment(str(preset), {"storage.path": str(storage)} | dotted)


def left_behind(folder):
    """Return the files below a folder, except locks and databases."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if not path.name.endswith((".lock", ".db"))]

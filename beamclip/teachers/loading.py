"""Load teachers with open_clip: by name and tag, from a folder, or from the Hugging Face hub."""

import json
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any

import open_clip
import torch
from torch import nn

from beamclip.config import TowerConfig, UserError, nearest
from beamclip.config.errors import first_line, mute_loggers
from beamclip.data.augmentation.render import PixelFormat
from beamclip.data.augmentation.resample import Interpolation
from beamclip.stores import key_of
from beamclip.stores.paths import LOCAL_MODEL, check_model_folder
from beamclip.teachers.tower import Teacher

_HUB = "hf-hub:"


def load_teacher(config: TowerConfig, device: torch.device) -> Teacher:
    """Load a teacher by open_clip name and tag, from a local folder, or from the Hugging Face hub.

    Args:
        config: `model` is an open_clip name, `local-dir:FOLDER` or `hf-hub:REPOSITORY`. For an
            open_clip name, `pretrained` is the tag or the file of the weights.
        device: the device to put the model on.

    Raises:
        UserError: there is no such model or tag (the message suggests similar names), the folder
            has no weights, or the weights can't be downloaded or read.
    """
    _check_names(config)
    try:
        # open_clip logs its progress on the root logger.
        with mute_loggers("", "huggingface_hub"):
            # Without `require_pretrained`, open_clip only warns if it loads no weights.
            model = open_clip.create_model(
                config.model, pretrained=config.pretrained, require_pretrained=True, device=device
            )
            tokenizer = open_clip.get_tokenizer(config.model)
    except ModuleNotFoundError as error:
        if error.name not in ("transformers", "sentencepiece"):
            raise
        hint = 'which is not installed; run pip install "beamclip[siglip]"'
        raise UserError(f"teacher.model {config.model} needs {error.name}, {hint}") from None
    except Exception as error:
        # For bad folders and files, open_clip, the hub's client and the readers of weights raise
        # errors of many types.
        raise UserError(f"teacher.model {config.model} can't be loaded: {_reason(error)}") from None
    model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return Teacher(
        display_name(config),
        model,
        tokenizer,
        _pixel_format(model, config.model),
        device,
        precision_for(config.precision, device),
        _architecture(config.model),
        config,
    )


def load_same_teacher(
    config: TowerConfig, threads: int, fingerprint: Callable[[Teacher], dict[str, Any]], key: str
) -> Teacher:
    """Load a teacher in a worker process, and check that it is the one the work was planned with.

    The teacher is loaded on the GPU if there is one.

    Args:
        config: the teacher's settings.
        threads: number of torch threads if there is no GPU.
        fingerprint: returns the part of the teacher's fingerprint that must be the same.
        key: key of this part in the process that planned the work.

    Raises:
        UserError: the teacher that this node has under the name differs.
    """
    if torch.cuda.is_available():
        device = torch.device("cuda")
    else:
        device = torch.device("cpu")
        torch.set_num_threads(threads)
    teacher = load_teacher(config, device)
    if key_of(fingerprint(teacher)) != key:
        raise UserError(
            f"teacher.model {config.model} has other weights on this node than on the first; "
            "give all nodes the same"
        )
    return teacher


def precision_for(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of a precision setting.

    Args:
        precision: `fp32`, `bf16`, or `auto`: bf16 on a GPU with hardware for it, else fp32.
        device: the device that the model runs on.
    """
    if precision == "auto":
        # By default, torch counts GPUs that emulate bf16 too.
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def display_name(config: TowerConfig) -> str:
    """Return the last part of the model's name, and the tag if it is an open_clip name.

    A loaded teacher has this name, but the name is known without loading it.
    """
    name = config.model.removeprefix(LOCAL_MODEL).rstrip("/").rsplit("/", 1)[-1]
    if config.pretrained and not config.model.startswith((LOCAL_MODEL, _HUB)):
        return f"{name}/{config.pretrained}"
    return name


def _architecture(model: str) -> dict[str, Any]:
    """Return open_clip's configuration of a model, or the name of a hub model."""
    if model.startswith(_HUB):
        return {"hub": model}
    if model.startswith(LOCAL_MODEL):
        path = Path(model.removeprefix(LOCAL_MODEL)) / "open_clip_config.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content["model_cfg"])
    return dict(open_clip.get_model_config(model) or {})


def _check_names(config: TowerConfig) -> None:
    """Raise UserError if open_clip has no such model or tag, or the folder contains no teacher.

    A hub model is not checked: only a download tells whether it exists.
    """
    if config.model.startswith(_HUB):
        return
    if config.model.startswith(LOCAL_MODEL):
        _check_folder(Path(config.model.removeprefix(LOCAL_MODEL)))
        return
    models = open_clip.list_models()
    if config.model not in models:
        hint = nearest(config.model, models)
        if Path(config.model).is_dir():
            hint = f"; for a folder write {LOCAL_MODEL}{config.model}"
        raise UserError(f"teacher.model {config.model} is not an open_clip model{hint}")
    tags = open_clip.list_pretrained_tags_by_model(config.model)
    if config.pretrained is None:
        raise UserError(
            f"teacher.pretrained is missing for {config.model}; its tags are "
            f"{', '.join(tags) or 'none'}"
        )
    if config.pretrained not in tags and not Path(config.pretrained).is_file():
        raise UserError(
            f"teacher.pretrained {config.pretrained} is not a tag of {config.model}"
            f"{nearest(config.pretrained, tags)}"
        )


def _check_folder(folder: Path) -> None:
    """Raise UserError if the folder lacks open_clip's configuration or weights."""
    check_model_folder("teacher.model", folder)
    config = folder / "open_clip_config.json"
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"{config} is missing or not JSON; "
            "a teacher folder must contain open_clip_config.json and weights"
        ) from None
    if not isinstance(content, dict) or not isinstance(content.get("model_cfg"), dict):
        raise UserError(
            f"{config} has no model_cfg; save the teacher with open_clip's own configuration"
        )
    if not any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin", "*.pt")):
        raise UserError(
            f"{folder} contains no weights; "
            "put open_clip_model.safetensors next to open_clip_config.json"
        )


def _pixel_format(model: nn.Module, name: str) -> PixelFormat:
    """Return the preprocessing that open_clip records for the image tower."""
    preprocess = open_clip.get_model_preprocess_cfg(model)
    size = preprocess["size"]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise UserError(
            f"teacher.model {name} takes images of {width} x {height} px; "
            "choose one that takes square images"
        )
    interpolation: Interpolation = "bicubic"
    if preprocess.get("interpolation") == "bilinear":
        interpolation = "bilinear"
    mean = _channels(preprocess, "mean", name)
    std = _channels(preprocess, "std", name)
    return PixelFormat(height, mean, std, interpolation)


def _channels(preprocess: dict[str, Any], key: str, name: str) -> tuple[float, float, float]:
    """Return the RGB values of `mean` or `std`. Like open_clip, accept one number for all three."""
    value = preprocess[key]
    channels = [value] * 3 if isinstance(value, int | float) else value
    try:
        red, green, blue = map(float, channels)
    except (TypeError, ValueError):
        raise UserError(
            f"teacher.model {name} has preprocess_cfg.{key} {value} in its open_clip_config.json; "
            "write three numbers there"
        ) from None
    return red, green, blue


def _reason(error: Exception) -> str:
    """Return an error's message in one line of at most 300 characters."""
    # The text of a KeyError is only the missing key.
    text = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
    return shorten(text, 300, placeholder=" …")

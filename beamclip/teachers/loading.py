"""Load teachers with open_clip: by name and tag, from a folder, or from the Hugging Face hub."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch

from beamclip.config import TowerConfig, UserError, nearest
from beamclip.config.errors import mute_loggers
from beamclip.stores import key_of
from beamclip.stores.paths import LOCAL_MODEL, check_model_folder
from beamclip.teachers.normalization import pixel_format
from beamclip.teachers.tower import Teacher
from beamclip.teachers.weights_errors import loading_error

_HUB = "hf-hub:"

# The files of weights that open_clip looks for in a folder, and those it takes first.
_WEIGHTS = ("*.safetensors", "*.bin", "*.pth")
_PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)


def load_teacher(config: TowerConfig, device: torch.device) -> Teacher:
    """Load a teacher by open_clip name and tag, from a local folder, or from the Hugging Face hub.

    Args:
        config: `model` is an open_clip name, `local-dir:FOLDER` or `hf-hub:REPOSITORY`. For an
            open_clip name, `pretrained` is the tag or the file of the weights.
        device: the device to put the model on.

    Raises:
        UserError: there is no such model or tag (the message suggests similar names), the folder
            has no weights, the weights can't be downloaded or read, or their normalization is not
            known.
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
            pixels, sources = pixel_format(model, config)
    except ModuleNotFoundError as error:
        if error.name not in ("transformers", "sentencepiece"):
            raise
        hint = 'which is not installed; run pip install "beamclip[siglip]"'
        raise UserError(f"teacher.model {config.model} needs {error.name}, {hint}") from None
    except UserError:
        raise
    except Exception as error:
        # For bad folders and files, open_clip, the hub's client and the readers of weights raise
        # errors of many types.
        reason = loading_error(error, _weights_file(config))
        raise UserError(f"teacher.model {config.model} can't be loaded: {reason}") from None
    model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return Teacher(
        display_name(config),
        model,
        tokenizer,
        pixels,
        device,
        precision_for(config.precision, device),
        _architecture(config.model),
        config,
        sources,
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
        elif Path(config.model).is_file():
            hint = "; for a weights file, name its model there and the file in teacher.pretrained"
        raise UserError(f"teacher.model {config.model} is not an open_clip model{hint}")
    tags = open_clip.list_pretrained_tags_by_model(config.model)
    if config.pretrained is None:
        raise UserError(
            f"teacher.pretrained is missing for {config.model}; its tags are "
            f"{', '.join(tags) or 'none'}"
        )
    if config.pretrained not in tags and not Path(config.pretrained).is_file():
        hint = nearest(config.pretrained, tags)
        if not tags:
            hint = ", which has no tags; give a weights file"
        if Path(config.pretrained).is_dir():
            hint = f", but a folder; write teacher.model={LOCAL_MODEL}{config.pretrained}"
        elif "/" in config.pretrained or config.pretrained.endswith(
            (".pt", ".bin", ".safetensors")
        ):
            hint = ", and there is no such file; check the path"
        raise UserError(
            f"teacher.pretrained {config.pretrained} is not a tag of {config.model}{hint}"
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
    if _weights_in(folder) is None:
        advice = "put open_clip_model.safetensors next to open_clip_config.json"
        others = sorted(folder.glob("*.pt"))
        if others:
            advice = (
                f"open_clip does not look for {others[0].name}: rename it to "
                "open_clip_pytorch_model.bin"
            )
        raise UserError(f"{folder} contains no weights; {advice}")


def _weights_in(folder: Path) -> Path | None:
    """Return the file of weights that open_clip loads from a folder, or None."""
    found = [path for pattern in _WEIGHTS for path in sorted(folder.glob(pattern))]
    for name in _PREFERRED:
        if folder / name in found:
            return folder / name
    return found[0] if found else None


def _weights_file(config: TowerConfig) -> Path | None:
    """Return the local file of a teacher's weights; None for a tag or a hub model."""
    if config.model.startswith(LOCAL_MODEL):
        return _weights_in(Path(config.model.removeprefix(LOCAL_MODEL)))
    if config.model.startswith(_HUB) or config.pretrained is None:
        return None
    if config.pretrained in open_clip.list_pretrained_tags_by_model(config.model):
        return None
    return Path(config.pretrained)

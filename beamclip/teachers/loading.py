"""Teachers through open_clip: by name and tag, from a folder in its format, or from the hub."""

import json
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any

import open_clip
import torch
from torch import nn

from beamclip.config import TowerConfig, UserError, nearest
from beamclip.config.errors import mute_loggers
from beamclip.data.augmentation.render import PixelFormat
from beamclip.data.augmentation.resample import Interpolation
from beamclip.stores import key_of
from beamclip.teachers.tower import Teacher


def load_teacher(config: TowerConfig, device: torch.device) -> Teacher:
    """Load a teacher by open_clip name and tag, from a local folder, or from the hub.

    Raises:
        UserError: no such model or tag (with near names), a folder without weights, or nothing to download from.
    """
    _check_names(config)
    try:
        with mute_loggers("", "huggingface_hub"):  # open_clip tells its story on the root logger
            model = open_clip.create_model(
                config.model, pretrained=config.pretrained, require_pretrained=True, device=device
            )
            tokenizer = open_clip.get_tokenizer(config.model)
    except ModuleNotFoundError as error:
        if error.name not in ("transformers", "sentencepiece"):
            raise
        hint = 'which is not installed; run pip install "beamclip[siglip]"'
        raise UserError(f"teacher.model {config.model} needs {error.name}, {hint}") from None
    except Exception as error:  # open_clip, the hub and the readers of weights raise all kinds on a bad folder or file
        raise UserError(
            f"teacher.model {config.model} can't be loaded: {_first_line(error)}"
        ) from None
    model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    name = config.model.removeprefix("local-dir:").rstrip("/").rsplit("/", 1)[-1]
    has_tag = config.pretrained and not config.model.startswith(("local-dir:", "hf-hub:"))
    name = f"{name}/{config.pretrained}" if has_tag else name
    precision = precision_for(config.precision, device)
    return Teacher(
        name,
        model,
        tokenizer,
        _pixels(model, config.model),
        device,
        precision,
        _architecture(config.model),
        config,
    )


def load_same_teacher(
    config: TowerConfig, threads: int, fingerprint: Callable[[Teacher], dict[str, Any]], key: str
) -> Teacher:
    """Load a teacher in another process than the one that described the work, on a GPU or with so many threads.

    Raises:
        UserError: the one found here under its name is another one.
    """
    if not torch.cuda.is_available():
        torch.set_num_threads(threads)
    teacher = load_teacher(config, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if key_of(fingerprint(teacher)) != key:
        raise UserError(
            f"teacher.model {config.model} has other weights on this node than on the first; give all nodes the same"
        )
    return teacher


def _architecture(model: str) -> dict[str, Any]:
    """What open_clip built the model from; a hub's is fixed by its name."""
    if model.startswith("local-dir:"):
        content = json.loads(
            (Path(model.removeprefix("local-dir:")) / "open_clip_config.json").read_text(
                encoding="utf-8"
            )
        )
        return dict(content["model_cfg"])
    return (
        {"hub": model}
        if model.startswith("hf-hub:")
        else dict(open_clip.get_model_config(model) or {})
    )


def precision_for(wanted: str, device: torch.device) -> torch.dtype:
    """`auto`: bf16 on a GPU that has it in hardware, else fp32."""
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if wanted == "bf16" or (wanted == "auto" and has_bf16) else torch.float32


def _check_names(config: TowerConfig) -> None:
    if config.model.startswith("hf-hub:"):
        return
    if config.model.startswith("local-dir:"):
        _check_folder(Path(config.model.removeprefix("local-dir:")))
        return
    models = open_clip.list_models()
    if config.model not in models:
        hint = (
            f"; for a folder write local-dir:{config.model}"
            if Path(config.model).is_dir()
            else nearest(config.model, models)
        )
        raise UserError(f"teacher.model {config.model} is no open_clip model{hint}")
    tags = open_clip.list_pretrained_tags_by_model(config.model)
    if config.pretrained is None:
        raise UserError(
            f"teacher.pretrained is missing for {config.model}: weights are known as {', '.join(tags) or 'none'}"
        )
    if config.pretrained not in tags and not Path(config.pretrained).is_file():
        raise UserError(
            f"teacher.pretrained {config.pretrained} is no tag of {config.model}{nearest(config.pretrained, tags)}"
        )


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        near = (
            [p.name for p in folder.parent.iterdir() if p.is_dir()]
            if folder.parent.is_dir()
            else []
        )
        raise UserError(
            f"teacher.model names the folder {folder}, which does not exist{nearest(folder.name, near)}"
        )
    config = folder / "open_clip_config.json"
    try:
        model_config = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"{config} is missing or not JSON; a teacher folder holds open_clip_config.json and its weights"
        ) from None
    if not isinstance(model_config, dict) or not isinstance(model_config.get("model_cfg"), dict):
        raise UserError(
            f"{config} has no model_cfg; save the teacher with open_clip's own configuration"
        )
    if (
        not any(folder.glob("*.safetensors"))
        and not any(folder.glob("*.bin"))
        and not any(folder.glob("*.pt"))
    ):
        raise UserError(
            f"{folder} holds no weights; put open_clip_model.safetensors beside its configuration"
        )


def _pixels(model: nn.Module, name: str) -> PixelFormat:
    preprocess = open_clip.get_model_preprocess_cfg(model)
    size = preprocess["size"]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise UserError(
            f"teacher.model {name} takes images of {width} x {height} px; give one that takes squares"
        )
    interpolation: Interpolation = (
        "bilinear" if preprocess.get("interpolation") == "bilinear" else "bicubic"
    )
    return PixelFormat(
        height,
        _channels(preprocess, "mean", name),
        _channels(preprocess, "std", name),
        interpolation,
    )


def _channels(preprocess: dict[str, Any], key: str, name: str) -> tuple[float, float, float]:
    """A number for each of red, green and blue; open_clip takes one for all three as well."""
    value = preprocess[key]
    try:
        red, green, blue = map(float, [value] * 3 if isinstance(value, (int, float)) else value)
    except (TypeError, ValueError):
        raise UserError(
            f"teacher.model {name} has the preprocess_cfg.{key} {value}; write three numbers there"
        ) from None
    return red, green, blue


def _first_line(error: Exception) -> str:
    text = f"{error} is missing" if isinstance(error, KeyError) else str(error).strip()
    return shorten((text or type(error).__name__).splitlines()[0], 300, placeholder=" …")

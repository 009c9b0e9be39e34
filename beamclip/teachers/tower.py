"""A frozen CLIP with both towers, loaded through open_clip."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from beamclip.config import TowerConfig, UserError, nearest
from beamclip.data.resample import Interpolation
from beamclip.data.views import PixelFormat
from beamclip.stores import key_of

_TEXT_BATCH = 256


class _Counter:
    """How many images teachers of this process have encoded."""

    def __init__(self) -> None:
        self.images = 0

    def add(self, images: int) -> None:
        self.images += images


_encoded = _Counter()


def images_encoded() -> int:
    """How many images the teachers of this process have encoded so far: what no trial that reads stores may add to."""
    return _encoded.images


@dataclass(frozen=True)
class Teacher:
    """Two towers into one space, in evaluation mode and without gradients.

    Attributes:
        name: what the user called it, for tags and messages.
        model: open_clip's model.
        tokenizer: its own; the default one makes 77 tokens whatever the model's context is.
        pixels: side, normalisation and interpolation of its image tower.
    """

    name: str
    model: Any
    tokenizer: Any
    pixels: PixelFormat
    device: torch.device
    precision: torch.dtype
    architecture: dict[str, Any] = field(default_factory=dict)
    """open_clip's configuration: heads and poolings change what comes out, and no weight."""
    config: TowerConfig = field(default_factory=TowerConfig)
    """By which another process can load the same teacher."""

    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> Tensor:
        """Normalised pixels [N, 3, S, S] -> image embeddings [N, D], fp32, unit length."""
        _encoded.add(len(images))
        layout = images.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32):
            embeddings = self.model.encode_image(layout)
        return nn.functional.normalize(embeddings.float(), dim=-1)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> text embeddings [N, D], fp32, unit length, on the CPU. Always in fp32: there are few of them."""
        batches = [list(texts[i : i + _TEXT_BATCH]) for i in range(0, len(texts), _TEXT_BATCH)]
        parts = [self.model.encode_text(self.tokenizer(batch).to(self.device)) for batch in batches]
        return nn.functional.normalize(torch.cat(parts).float(), dim=-1).cpu()

    @cached_property
    def width(self) -> int:
        """D, the width of the shared space."""
        return int(self.encode_images(torch.zeros(1, 3, self.pixels.size, self.pixels.size)).shape[1])

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What an embedding depends on beside the pixels: weights, architecture, activation, preprocessing and tokens."""
        mean, std = list(self.pixels.mean), list(self.pixels.std)
        pixels = {"size": self.pixels.size, "mean": mean, "std": std, "interpolation": self.pixels.interpolation}
        parts = {"activations": self._activations, "pixels": pixels, "precision": str(self.precision), "tokens": self._tokens}
        return {"weights": _weights_hash(self.model), "architecture": self.architecture, **parts}

    @cached_property
    def text_fingerprint(self) -> dict[str, Any]:
        """What a text embedding depends on beside the text: two teachers that share a text tower share their anchors."""
        architecture = {name: value for name, value in self.architecture.items() if name != "vision_cfg"}
        weights = _weights_hash(self.model, without=("visual.", "logit_"))
        return {"weights": weights, "architecture": architecture, "activations": self._activations, "tokens": self._tokens}

    @property
    def _activations(self) -> list[str]:
        return sorted({type(m).__name__ for m in self.model.modules() if "GELU" in type(m).__name__})

    @property
    def _tokens(self) -> list[list[int]]:
        tokens: list[list[int]] = self.tokenizer(["A photo of a Crane (Grus), no. 3!"]).tolist()
        return tokens

    @cached_property
    def probe_output(self) -> list[float]:
        """The first numbers of its output on a fixed input: kept in manifests, to be compared by eye or by cosine.

        Not a part of any key, since the last bits differ between devices.
        """
        side = self.pixels.size
        ramp = torch.linspace(-1, 1, 3 * side * side).reshape(1, 3, side, side)
        return [round(value, 4) for value in self.encode_images(ramp)[0, :8].tolist()]


def load_teacher(config: TowerConfig, device: torch.device) -> Teacher:
    """Load a teacher by open_clip name and tag, from a local folder, or from the hub.

    Raises:
        UserError: no such model or tag (with near names), a folder without weights, or nothing to download from.
    """
    _check_names(config)
    try:
        with _quiet():
            model = open_clip.create_model(config.model, pretrained=config.pretrained, require_pretrained=True, device=device)
            tokenizer = open_clip.get_tokenizer(config.model)
    except ModuleNotFoundError as error:
        if error.name not in ("transformers", "sentencepiece"):
            raise
        hint = 'which is not installed; run pip install "beamclip[siglip]"'
        raise UserError(f"teacher.model {config.model} needs {error.name}, {hint}") from None
    except Exception as error:  # open_clip, the hub and the readers of weights raise all kinds on a bad folder or file
        raise UserError(f"teacher.model {config.model} can't be loaded: {_first_line(error)}") from None
    model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    name = config.model.removeprefix("local-dir:").rstrip("/").rsplit("/", 1)[-1]
    has_tag = config.pretrained and not config.model.startswith(("local-dir:", "hf-hub:"))
    name = f"{name}/{config.pretrained}" if has_tag else name
    precision = precision_for(config.precision, device)
    return Teacher(name, model, tokenizer, _pixels(model), device, precision, _architecture(config.model), config)


def load_same_teacher(config: TowerConfig, threads: int, fingerprint: Callable[[Teacher], dict[str, Any]], key: str) -> Teacher:
    """Load a teacher in another process than the one that described the work, on a GPU or with so many threads.

    Raises:
        UserError: the one found here under its name is another one.
    """
    if not torch.cuda.is_available():
        torch.set_num_threads(threads)
    teacher = load_teacher(config, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if key_of(fingerprint(teacher)) != key:
        raise UserError(f"teacher.model {config.model} has other weights on this node than on the first; give all nodes the same")
    return teacher


def _architecture(model: str) -> dict[str, Any]:
    """What open_clip built the model from; a hub's is fixed by its name."""
    if model.startswith("local-dir:"):
        content = json.loads((Path(model.removeprefix("local-dir:")) / "open_clip_config.json").read_text(encoding="utf-8"))
        return dict(content["model_cfg"])
    return {"hub": model} if model.startswith("hf-hub:") else dict(open_clip.get_model_config(model) or {})


def precision_for(wanted: str, device: torch.device) -> torch.dtype:
    """`auto`: bf16 on a GPU that has it in hardware, else fp32."""
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if wanted == "bf16" or (wanted == "auto" and has_bf16) else torch.float32


@contextmanager
def _quiet() -> Iterator[None]:
    """open_clip tells its story on the root logger."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)


def _check_names(config: TowerConfig) -> None:
    if config.model.startswith("hf-hub:"):
        return
    if config.model.startswith("local-dir:"):
        _check_folder(Path(config.model.removeprefix("local-dir:")))
        return
    models = open_clip.list_models()
    if config.model not in models:
        hint = f"; for a folder write local-dir:{config.model}" if Path(config.model).is_dir() else nearest(config.model, models)
        raise UserError(f"teacher.model {config.model} is no open_clip model{hint}")
    tags = open_clip.list_pretrained_tags_by_model(config.model)
    if config.pretrained is None:
        raise UserError(f"teacher.pretrained is missing for {config.model}: weights are known as {', '.join(tags) or 'none'}")
    if config.pretrained not in tags and not Path(config.pretrained).is_file():
        raise UserError(f"teacher.pretrained {config.pretrained} is no tag of {config.model}{nearest(config.pretrained, tags)}")


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        near = [p.name for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        raise UserError(f"teacher.model names the folder {folder}, which does not exist{nearest(folder.name, near)}")
    config = folder / "open_clip_config.json"
    try:
        model_config = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{config} is missing or not JSON; a teacher folder holds open_clip_config.json and its weights") from None
    if not isinstance(model_config, dict) or not isinstance(model_config.get("model_cfg"), dict):
        raise UserError(f"{config} has no model_cfg; save the teacher with open_clip's own configuration")
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")) and not any(folder.glob("*.pt")):
        raise UserError(f"{folder} holds no weights; put open_clip_model.safetensors beside its configuration")


def _pixels(model: nn.Module) -> PixelFormat:
    preprocess = open_clip.get_model_preprocess_cfg(model)
    size = preprocess["size"]
    side = size if isinstance(size, int) else size[0]
    interpolation: Interpolation = "bilinear" if preprocess.get("interpolation") == "bilinear" else "bicubic"
    return PixelFormat(side, tuple(preprocess["mean"]), tuple(preprocess["std"]), interpolation)


def _weights_hash(model: nn.Module, without: tuple[str, ...] = ()) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(without):
            continue
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    text = f"{error} is missing" if isinstance(error, KeyError) else str(error).strip()
    return shorten((text or type(error).__name__).splitlines()[0], 300, placeholder=" …")

"""A frozen CLIP with both towers: what it says of images and texts, and what that depends on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from beamclip.config import TowerConfig
from beamclip.data.augmentation.render import PixelFormat

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
        with torch.autocast(
            self.device.type, dtype=self.precision, enabled=self.precision != torch.float32
        ):
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
        return int(
            self.encode_images(torch.zeros(1, 3, self.pixels.size, self.pixels.size)).shape[1]
        )

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What an embedding depends on beside the pixels: weights, architecture, activation, preprocessing and tokens."""
        mean, std = list(self.pixels.mean), list(self.pixels.std)
        pixels = {
            "size": self.pixels.size,
            "mean": mean,
            "std": std,
            "interpolation": self.pixels.interpolation,
        }
        parts = {
            "activations": self._activations,
            "pixels": pixels,
            "precision": str(self.precision),
            "tokens": self._tokens,
        }
        return {"weights": _weights_hash(self.model), "architecture": self.architecture, **parts}

    @cached_property
    def text_fingerprint(self) -> dict[str, Any]:
        """What a text embedding depends on beside the text: two teachers that share a text tower share their anchors."""
        architecture = {
            name: value for name, value in self.architecture.items() if name != "vision_cfg"
        }
        weights = _weights_hash(self.model, without=("visual.", "logit_"))
        return {
            "weights": weights,
            "architecture": architecture,
            "activations": self._activations,
            "tokens": self._tokens,
        }

    @property
    def _activations(self) -> list[str]:
        return sorted(
            {type(m).__name__ for m in self.model.modules() if "GELU" in type(m).__name__}
        )

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


def _weights_hash(model: nn.Module, without: tuple[str, ...] = ()) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(without):
            continue
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()

"""A frozen CLIP with an image and a text tower, and the fingerprints its embeddings depend on."""

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


class _ImageCounter:
    """Counter of the images that all teachers of this process have encoded."""

    def __init__(self) -> None:
        self.images = 0

    def add(self, images: int) -> None:
        self.images += images


_encoded = _ImageCounter()


def images_encoded() -> int:
    """Return the number of images that the teachers of this process have encoded so far.

    A trial that reads stored embeddings must not increase it.
    """
    return _encoded.images


@dataclass(frozen=True)
class Teacher:
    """Image and text tower into one embedding space, in evaluation mode and without gradients.

    Attributes:
        name: short name for tags and messages.
        model: open_clip's model.
        tokenizer: the model's own tokenizer. open_clip's default one always returns 77 tokens,
            even if the model's context length is another.
        pixels: side, normalization and interpolation of the image tower.
        device: where the model is.
        precision: `torch.bfloat16` runs the image tower under autocast.
        architecture: open_clip's configuration. Heads and poolings change the output but none of
            the weights, so it is part of the fingerprint.
        config: the settings by which another process can load the same teacher.
    """

    name: str
    model: Any
    tokenizer: Any
    pixels: PixelFormat
    device: torch.device
    precision: torch.dtype
    architecture: dict[str, Any] = field(default_factory=dict)
    config: TowerConfig = field(default_factory=TowerConfig)

    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> Tensor:
        """Encode normalized pixels [N, 3, S, S] to image embeddings [N, D], fp32, unit length."""
        _encoded.add(len(images))
        on_device = images.to(self.device, memory_format=torch.channels_last)
        use_autocast = self.precision != torch.float32
        with torch.autocast(self.device.type, dtype=self.precision, enabled=use_autocast):
            embeddings = self.model.encode_image(on_device)
        return nn.functional.normalize(embeddings.float(), dim=-1)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode texts to embeddings [N, D], fp32, unit length, on the CPU.

        Always runs in fp32: there are few texts, and their embeddings are used throughout.
        """
        embeddings = []
        for start in range(0, len(texts), _TEXT_BATCH):
            tokens = self.tokenizer(list(texts[start : start + _TEXT_BATCH]))
            embeddings.append(self.model.encode_text(tokens.to(self.device)))
        return nn.functional.normalize(torch.cat(embeddings).float(), dim=-1).cpu()

    @cached_property
    def width(self) -> int:
        """Return D, the width of the shared embedding space."""
        side = self.pixels.size
        return int(self.encode_images(torch.zeros(1, 3, side, side)).shape[1])

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Return all that an image embedding depends on besides the pixels, for store keys.

        These are weights, architecture, activations, preprocessing, precision and tokenization.
        """
        pixels = {
            "size": self.pixels.size,
            "mean": list(self.pixels.mean),
            "std": list(self.pixels.std),
            "interpolation": self.pixels.interpolation,
        }
        return {
            "weights": _weights_hash(self.model),
            "architecture": self.architecture,
            "activations": self._activations,
            "pixels": pixels,
            "precision": str(self.precision),
            "tokens": self._example_tokens,
        }

    @cached_property
    def text_fingerprint(self) -> dict[str, Any]:
        """Return all that a text embedding depends on besides the text, for store keys.

        Two teachers with the same text tower share their stored anchors.
        """
        architecture = {
            name: value for name, value in self.architecture.items() if name != "vision_cfg"
        }
        return {
            "weights": _weights_hash(self.model, without=("visual.", "logit_")),
            "architecture": architecture,
            "activations": self._activations,
            "tokens": self._example_tokens,
        }

    @property
    def _activations(self) -> list[str]:
        """Return the names of the GELU variants, which differ between checkpoints of one model."""
        names = {type(module).__name__ for module in self.model.modules()}
        return sorted(name for name in names if "GELU" in name)

    @property
    def _example_tokens(self) -> list[list[int]]:
        """Return the tokens of a fixed sentence, which tell tokenizers apart."""
        tokens: list[list[int]] = self.tokenizer(["A photo of a Crane (Grus), no. 3!"]).tolist()
        return tokens

    @cached_property
    def reference_output(self) -> list[float]:
        """Return the first 8 numbers of the embedding of a fixed input, for manifests.

        They can be compared by eye or by cosine. They are not part of any key, since the last bits
        differ between devices.
        """
        side = self.pixels.size
        ramp = torch.linspace(-1, 1, 3 * side * side).reshape(1, 3, side, side)
        return [round(value, 4) for value in self.encode_images(ramp)[0, :8].tolist()]


def _weights_hash(model: nn.Module, without: tuple[str, ...] = ()) -> str:
    """Return the SHA-256 of all weights except those whose names start with one of `without`."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(without):
            continue
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()

"""Define `Teacher`, a frozen CLIP, and the fingerprints of all that its embeddings depend on."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from beamclip.config import TowerConfig
from beamclip.data.augmentation.render import PixelFormat
from beamclip.teachers.normalization import describe_input

_TEXT_BATCH = 256
"""Texts per forward pass."""


class _ImageCounter:
    """Counter of the images that all teachers of this process have encoded."""

    images: int = 0


_encoded = _ImageCounter()


def images_encoded() -> int:
    """Return the number of images that the teachers of this process have encoded so far.

    Trials check with it that they read stored embeddings and encode nothing.
    """
    return _encoded.images


@dataclass(frozen=True)
class Teacher:
    """A frozen CLIP: an image and a text tower with one embedding space.

    Attributes:
        name: short name for tags and messages.
        model: open_clip's model, in evaluation mode and without gradients.
        tokenizer: the model's own tokenizer. open_clip's default tokenizer always returns 77
            tokens, even if the model's context length differs.
        pixels: side, normalization and interpolation of the image tower's input.
        device: the device that the model is on.
        precision: dtype of the image tower. With `torch.bfloat16` it runs under autocast.
        architecture: open_clip's configuration. It is part of the fingerprint, because the number
            of heads or the pooling changes the output but not the weights.
        config: the settings with which another process can load the same teacher.
        pixel_sources: where `mean`, `std` and `interpolation` in `pixels` are written, in words.
    """

    name: str
    model: Any
    tokenizer: Any
    pixels: PixelFormat
    device: torch.device
    precision: torch.dtype
    architecture: dict[str, Any] = field(default_factory=dict)
    config: TowerConfig = field(default_factory=TowerConfig)
    pixel_sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def input_description(self) -> str:
        """Return side, normalization and interpolation in words, and where they are written."""
        return describe_input(self.pixels, self.pixel_sources)

    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> Tensor:
        """Encode normalized pixels [N, 3, S, S] to image embeddings [N, D], fp32, unit length."""
        _encoded.images += len(images)
        on_device = images.to(self.device, memory_format=torch.channels_last)
        use_autocast = self.precision != torch.float32
        with torch.autocast(self.device.type, dtype=self.precision, enabled=use_autocast):
            embeddings = self.model.encode_image(on_device)
        # In fp32, since bf16 is too coarse for unit length.
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
        """Return what image embeddings depend on besides the images, for store keys.

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
        """Return what text embeddings depend on besides the texts, for store keys.

        Two teachers with the same text tower share their stored anchors.
        """
        architecture = {
            name: value for name, value in self.architecture.items() if name != "vision_cfg"
        }
        # Without the image tower, and without CLIP's logit scale and bias.
        return {
            "weights": _weights_hash(self.model, without=("visual.", "logit_")),
            "architecture": architecture,
            "activations": self._activations,
            "tokens": self._example_tokens,
        }

    @property
    def _activations(self) -> list[str]:
        """Return the names of the GELU variants that the model uses.

        They differ between checkpoints of one architecture, such as OpenAI's and LAION's.
        """
        names = {type(module).__name__ for module in self.model.modules()}
        return sorted(name for name in names if "GELU" in name)

    @property
    def _example_tokens(self) -> list[list[int]]:
        """Return the tokens of a fixed sentence, by which tokenizers can be told apart."""
        tokens: list[list[int]] = self.tokenizer(["A photo of a Crane (Grus), no. 3!"]).tolist()
        return tokens

    @cached_property
    def reference_output(self) -> list[float]:
        """Return the first 8 numbers of the embedding of a fixed input, for manifests.

        They can be compared by eye or by cosine. They are not part of a key, because their last
        bits differ between devices.
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
        # As bytes, since NumPy has no bfloat16. A scalar can only be viewed as bytes if it is flat.
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()

"""Rendering views: stored images and drawn numbers in, normalised pixels out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from beamclip.data.augmentation import color as colour
from beamclip.data.augmentation import resample, resample_cpu
from beamclip.data.augmentation.resample import Interpolation
from beamclip.data.augmentation.sample import ViewParameters
from beamclip.data.prefetch import to_device

_PIECE = 800_000  # values, 3 MB: few enough for a CPU to keep in its caches from one step to the next, and enough for each to pay


RENDER_VERSION = 2
"""Goes up whenever the pixels that `render` returns change by more than rounding, so that no old embedding is taken for a new one."""


@dataclass(frozen=True)
class PixelFormat:
    """What a network wants to be fed: side in px, per-channel mean and standard deviation of [0, 1] values, interpolation."""

    size: int
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: Interpolation = "bilinear"


def render(images: Tensor, parameters: ViewParameters, pixels: PixelFormat) -> Tensor:
    """Render one view of each image.

    Teacher and student call this with the same parameters and their own `PixelFormat`, and so see the same crop, flip and
    colours at their own resolution and normalisation. On a CPU an image's pixels are the same to the bit in any batch.

    Args:
        images: uint8 [N, S, S, 3] on the device the work should happen on.
        parameters: of these N images.

    Returns:
        float32 [N, 3, size, size], normalised.
    """
    device, size = images.device, pixels.size
    mean, std = (
        to_device(torch.tensor(numbers).view(1, 3, 1, 1), device)
        for numbers in (pixels.mean, pixels.std)
    )
    out = _empty((len(images), 3, size, size), device)
    with _one_thread() if device.type == "cpu" else nullcontext():
        for rows in _pieces(images, size):
            some = parameters.select(rows)
            view = _blur(_colour(_crop(images[rows], some, pixels), some), some)
            torch.sub(view, mean, out=out[rows]).div_(std)
    return out


def render_all(images: Tensor, views: Sequence[ViewParameters], pixels: PixelFormat) -> Tensor:
    """Render several views of each image, all images of the first view before those of the second.

    A GPU does them at once: beside training, what a view costs there is mostly the number of things it is asked to do.

    Returns:
        float32 [V · N, 3, size, size], normalised.
    """
    if len(views) == 1:
        return render(images, views[0], pixels)
    if images.device.type == "cpu":
        return torch.cat([render(images, view, pixels) for view in views])
    return render(images.repeat(len(views), 1, 1, 1), ViewParameters.joined(views), pixels)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Views are made beside training, whose threads hold all cores: more than one here would make them wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _empty(shape: tuple[int, ...], device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.empty(shape, device=device)
    return torch.from_numpy(
        np.empty(shape, np.float32)
    )  # NumPy asks Linux for huge pages, four times as quick to write to first


def _pieces(images: Tensor, size: int) -> list[slice]:
    """A GPU does the whole batch at once."""
    count = (
        max(1, _PIECE // (3 * size * size)) if images.device.type == "cpu" else max(1, len(images))
    )
    return [slice(start, start + count) for start in range(0, len(images), count)]


def _crop(images: Tensor, p: ViewParameters, pixels: PixelFormat) -> Tensor:
    side = images.shape[1]
    if (
        side == pixels.size
        and not p.flip.any()
        and bool((p.width == 1).all() and (p.height == 1).all())
    ):
        return (
            images.permute(0, 3, 1, 2)
            .to(torch.float32, memory_format=torch.contiguous_format)
            .div_(255)
        )
    boxes = np.stack([p.left, p.top, p.width, p.height], axis=1) * np.float32(side)
    crop = resample_cpu.crop if images.device.type == "cpu" else resample.crop
    return crop(images, boxes, p.flip, pixels.size, pixels.interpolation)


def _colour(view: Tensor, p: ViewParameters) -> Tensor:
    if not (p.gray.any() or (p.jitter_order >= 0).any()):
        return view
    steps = np.column_stack([p.jitter_order, np.where(p.gray, colour.GREY, -1)])
    return colour.change(view, steps, np.column_stack([p.factors, np.zeros_like(p.left)]))


def _blur(view: Tensor, p: ViewParameters) -> Tensor:
    if (p.blur_sigma > 0).any():
        blur = resample_cpu.blur if view.device.type == "cpu" else resample.blur
        blur(view, p.blur_sigma * np.float32(view.shape[-1]))
    return view

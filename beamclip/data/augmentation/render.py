"""Render views: stored images and drawn parameters in, normalized pixels out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from beamclip.data.augmentation import color, resample, resample_cpu
from beamclip.data.augmentation.resample import Interpolation
from beamclip.data.augmentation.sample import ViewParameters
from beamclip.data.prefetch import to_device

_CHUNK_VALUES = 800_000
"""Values rendered at once on a CPU: 3 MB, which stay in its caches from one step to the next."""

RENDER_VERSION = 2
"""Increase it if the pixels of `render` change by more than rounding. Part of the key of embedding
stores."""


@dataclass(frozen=True)
class PixelFormat:
    """The pixels that a network expects.

    Attributes:
        size: side in px.
        mean: subtracted from each channel of [0, 1] values.
        std: standard deviation by which each channel is divided.
        interpolation: interpolation for resizing.
    """

    size: int
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: Interpolation = "bilinear"


def render(images: Tensor, parameters: ViewParameters, pixels: PixelFormat) -> Tensor:
    """Render one view of each image.

    Teacher and student call this with the same parameters and their own `PixelFormat`, so they see
    the same crop, flip and colors at their own resolution and normalization. On a CPU an image's
    pixels are the same to the bit in any batch.

    Args:
        images: uint8 [N, S, S, 3], on the device that does the work.
        parameters: view parameters of these N images.
        pixels: what the network expects.

    Returns:
        float32 [N, 3, size, size], normalized.
    """
    device = images.device
    size = pixels.size
    mean = to_device(torch.tensor(pixels.mean).view(1, 3, 1, 1), device)
    std = to_device(torch.tensor(pixels.std).view(1, 3, 1, 1), device)
    out = _empty((len(images), 3, size, size), device)
    with _one_thread() if device.type == "cpu" else nullcontext():
        for rows in _chunks(images, size):
            chunk = parameters.select(rows)
            view = _crop(images[rows], chunk, pixels)
            view = _change_color(view, chunk)
            view = _blur(view, chunk)
            torch.sub(view, mean, out=out[rows]).div_(std)
    return out


def render_all(images: Tensor, views: Sequence[ViewParameters], pixels: PixelFormat) -> Tensor:
    """Render several views of each image: all images of the first view, then all of the second.

    A GPU renders them together. During training, what a view costs there is mostly the number of
    its kernels, not their size.

    Args:
        images: uint8 [N, S, S, 3], on the device that does the work.
        views: V views, each with the parameters of these N images.
        pixels: what the network expects.

    Returns:
        float32 [V · N, 3, size, size], normalized.
    """
    if len(views) == 1:
        return render(images, views[0], pixels)
    if images.device.type == "cpu":
        return torch.cat([render(images, view, pixels) for view in views])
    return render(images.repeat(len(views), 1, 1, 1), ViewParameters.joined(views), pixels)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one torch thread, because training's threads already use all cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _empty(shape: tuple[int, ...], device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.empty(shape, device=device)
    # NumPy asks Linux for huge pages; the first write to them is four times as fast.
    return torch.from_numpy(np.empty(shape, np.float32))


def _chunks(images: Tensor, size: int) -> list[slice]:
    """Return the chunks of a batch: one on a GPU, small ones on a CPU."""
    # An empty batch has no chunks, but `range` takes no step of 0.
    count = max(1, len(images))
    if images.device.type == "cpu":
        count = max(1, _CHUNK_VALUES // (3 * size * size))
    return [slice(start, start + count) for start in range(0, len(images), count)]


def _crop(images: Tensor, parameters: ViewParameters, pixels: PixelFormat) -> Tensor:
    """Crop, resize and flip: uint8 [N, S, S, 3] -> float32 [N, 3, size, size] in [0, 1]."""
    side = images.shape[1]
    is_whole = bool((parameters.width == 1).all() and (parameters.height == 1).all())
    # The canonical view at the stored size: there is nothing to resample.
    if side == pixels.size and is_whole and not parameters.flip.any():
        planes = images.permute(0, 3, 1, 2)
        # By default, `to` would keep the channels last in memory.
        return planes.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    shares = [parameters.left, parameters.top, parameters.width, parameters.height]
    boxes = np.stack(shares, axis=1) * np.float32(side)
    crop = resample_cpu.crop if images.device.type == "cpu" else resample.crop
    return crop(images, boxes, parameters.flip, pixels.size, pixels.interpolation)


def _change_color(view: Tensor, parameters: ViewParameters) -> Tensor:
    has_jitter = (parameters.jitter_order >= 0).any()
    if not (has_jitter or parameters.gray.any()):
        return view
    # Grayscale is the last step, and has no factor.
    gray_steps = np.where(parameters.gray, color.GRAY, -1)
    steps = np.column_stack([parameters.jitter_order, gray_steps])
    numbers = np.column_stack([parameters.factors, np.zeros_like(parameters.left)])
    return color.change(view, steps, numbers)


def _blur(view: Tensor, parameters: ViewParameters) -> Tensor:
    if (parameters.blur_sigma > 0).any():
        blur = resample_cpu.blur if view.device.type == "cpu" else resample.blur
        blur(view, parameters.blur_sigma * np.float32(view.shape[-1]))
    return view

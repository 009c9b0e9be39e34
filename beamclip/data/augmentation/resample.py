"""Cropping, flipping, resizing and blurring as matrices, for GPUs; `resample_cpu` is for CPUs.

All of them are linear and separable, so one image is `rows @ image @ columns.T`: two batched matrix products for a whole batch
of different crops, antialiased and rounded as in Pillow, on any device.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamclip.data.prefetch import to_device

Interpolation = Literal["bilinear", "bicubic"]
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
# SimCLR's blur kernel reaches a tenth of the image's side in all, so a twentieth to each side of a pixel.
_BLUR_REACH = 0.05
EDGE = 1e-3
"""A crop that covers less than this of a pixel does not touch it."""


def crop(
    images: Tensor,
    boxes: NDArray[np.float32],
    flip: NDArray[np.bool_],
    size: int,
    interpolation: Interpolation,
) -> Tensor:
    """Cut a box out of each image, resize it and maybe flip it.

    Args:
        images: uint8 [N, S, S, 3].
        boxes: left, top, width and height in source pixels, [N, 4].
        flip: which images to mirror, [N].

    Returns:
        float32 [N, 3, size, size] in [0, 1], on the images' device.
    """
    planes = images.permute(0, 3, 1, 2).float()
    left, top, width, height = to_device(torch.from_numpy(boxes), images.device).unbind(1)
    mirrored = to_device(torch.from_numpy(flip), images.device)
    rows = resize_matrices(top, height, None, images.shape[1], size, interpolation)
    columns = resize_matrices(left, width, mirrored, images.shape[1], size, interpolation)
    return _bytes(_down(_bytes(_across(planes, columns)), rows)).div_(255)


def _bytes(values: Tensor) -> Tensor:
    """Rounded to 8 bits after each axis, as Pillow does: what bicubic overshoots at an edge is cut off there and not carried on."""
    return values.add_(0.5).floor_().clamp_(0, 255)


def blur(images: Tensor, sigma: NDArray[np.float32]) -> None:
    """Blur images [N, C, S, S] in place, each by its own σ in px [N]; where it is 0 nothing is done."""
    rows = to_device(torch.from_numpy(np.flatnonzero(sigma > 0)), images.device)
    matrices = blur_matrices(
        to_device(torch.from_numpy(sigma[sigma > 0]), images.device), images.shape[-1]
    )
    images[rows] = apply_matrices(images.index_select(0, rows), matrices, matrices)


def _kernel(x: Tensor, interpolation: Interpolation) -> Tensor:
    """Pillow's filters: the triangle, and Keys' cubic with a = -0.5."""
    x = x.abs()
    if interpolation == "bilinear":
        return (1 - x).clamp_min(0)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, inner, torch.where(x < 2, outer, torch.zeros_like(x)))


def resize_matrices(
    start: Tensor,
    length: Tensor,
    flip: Tensor | None,
    source: int,
    target: int,
    interpolation: Interpolation,
) -> Tensor:
    """Matrices [N, target, source] that crop one axis to [start, start + length), resize it to `target` px and maybe flip it.

    Antialiased as Pillow's `resize(box=…)`: where the crop is larger than the target the filter widens, and weights outside the
    crop are dropped and the rest normalised.

    Args:
        start, length: of the crops in source pixels, [N] floats.
        flip: which rows to reverse, [N] bools.
    """
    scale = length / target
    width = scale.clamp_min(1.0)
    centre = start[:, None] + (torch.arange(target, device=start.device) + 0.5) * scale[:, None]
    if flip is not None:
        centre = torch.where(flip[:, None], centre.flip(1), centre)
    pixel = torch.arange(source, device=start.device) + 0.5
    weights = _kernel((pixel - centre[:, :, None]) / width[:, None, None], interpolation)
    inside = (pixel > start[:, None] - 0.5 + EDGE) & (
        pixel < (start + length)[:, None] + 0.5 - EDGE
    )
    weights = weights * inside[:, None, :]
    return weights / weights.sum(dim=2, keepdim=True)


def blur_reach(size: int) -> int:
    """How many pixels to each side a blurred one takes from."""
    return max(1, round(_BLUR_REACH * size))


def blur_matrices(sigma: Tensor, size: int) -> Tensor:
    """Gaussian blur of one axis with reflected borders, [N, size, size].

    sigma: [N] in px, > 0. The kernel is cut at a tenth of the side in all, as SimCLR's code does.
    """
    reach = blur_reach(size)
    offsets = torch.arange(-reach, reach + 1, device=sigma.device)
    taps = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    taps = taps / taps.sum(dim=1, keepdim=True)
    source = torch.arange(size, device=sigma.device)[:, None] + offsets
    source = source.abs()
    source = torch.where(source >= size, 2 * (size - 1) - source, source)
    matrices = torch.zeros(len(sigma), size, size, device=sigma.device)
    index = source.expand(len(sigma), -1, -1)
    return matrices.scatter_add_(2, index, taps[:, None, :].expand(-1, size, -1).contiguous())


def apply_matrices(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """[N, C, H, W] with rows [N, h, H] and columns [N, w, W] -> [N, C, h, w]."""
    return _down(_across(images, columns), rows)


def _across(images: Tensor, columns: Tensor) -> Tensor:
    n, channels, height, width = images.shape
    wide = torch.bmm(images.reshape(n, channels * height, width), columns.transpose(1, 2))
    return wide.view(n, channels, height, -1)


def _down(images: Tensor, rows: Tensor) -> Tensor:
    return torch.matmul(rows[:, None], images)

"""Crop, flip, resize and blur a batch as matrix products, for GPUs; `resample_cpu` is for CPUs.

All of them are linear and separable, so one image is `rows @ image @ columns.T`. A whole batch of
different crops is two batched matrix products, antialiased and rounded as in Pillow, on any device.
torchvision's functions take one crop and size for a whole batch.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamclip.data.prefetch import to_device

Interpolation = Literal["bilinear", "bicubic"]
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
_BLUR_REACH = 0.05
"""SimCLR's blur kernel is a tenth of the image's side wide: a twentieth to each side of a pixel."""
EDGE = 1e-3
"""A crop that covers less of a pixel than this does not include it."""


def crop(
    images: Tensor,
    boxes: NDArray[np.float32],
    flip: NDArray[np.bool_],
    size: int,
    interpolation: Interpolation,
) -> Tensor:
    """Cut a box out of each image, resize it, and flip some.

    Args:
        images: uint8 [N, S, S, 3].
        boxes: left, top, width and height in source pixels, [N, 4].
        flip: which images to mirror, [N].
        size: side of the result in px.
        interpolation: of the resizing.

    Returns:
        float32 [N, 3, size, size] in [0, 1], on the images' device.
    """
    planes = images.permute(0, 3, 1, 2).float()
    left, top, width, height = to_device(torch.from_numpy(boxes), images.device).unbind(1)
    mirrored = to_device(torch.from_numpy(flip), images.device)
    rows = resize_matrices(top, height, None, images.shape[1], size, interpolation)
    columns = resize_matrices(left, width, mirrored, images.shape[1], size, interpolation)
    narrow = _round_to_bytes(_across(planes, columns))
    return _round_to_bytes(_down(narrow, rows)).div_(255)


def _round_to_bytes(values: Tensor) -> Tensor:
    """Round to 8 bits in place. As in Pillow this is done after each axis.

    So the overshoot of bicubic at an edge is cut off and not passed on to the other axis.
    """
    return values.add_(0.5).floor_().clamp_(0, 255)


def blur(images: Tensor, sigma: NDArray[np.float32]) -> None:
    """Blur images [N, C, S, S] in place, each by its own σ in px, [N]; 0 is no blur."""
    rows = to_device(torch.from_numpy(np.flatnonzero(sigma > 0)), images.device)
    sigmas = to_device(torch.from_numpy(sigma[sigma > 0]), images.device)
    matrices = blur_matrices(sigmas, images.shape[-1])
    images[rows] = apply_matrices(images.index_select(0, rows), matrices, matrices)


def _kernel(x: Tensor, interpolation: Interpolation) -> Tensor:
    """Return the weights of Pillow's filters: the triangle, and Keys' cubic with a = -0.5."""
    x = x.abs()
    if interpolation == "bilinear":
        return (1 - x).clamp_min(0)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, inner, torch.where(x < 2, outer, torch.zeros_like(x)))


def resize_matrices(  # noqa: PLR0913 - one axis of a crop, a flip and a resize
    start: Tensor,
    length: Tensor,
    flip: Tensor | None,
    source: int,
    target: int,
    interpolation: Interpolation,
) -> Tensor:
    """Return matrices that crop, resize and flip one axis.

    Antialiased as Pillow's `resize(box=…)`: if the crop is larger than the target, the filter
    widens. Weights outside the crop are dropped and the rest normalized.

    Args:
        start: of the crops in source pixels, [N] floats.
        length: of the crops in source pixels, [N] floats.
        flip: which rows to reverse, [N] bools; None for no row.
        source: length of the axis in px.
        target: length of the resized axis in px.
        interpolation: of the resizing.

    Returns:
        [N, target, source].
    """
    scale = length / target
    width = scale.clamp_min(1.0)
    center = start[:, None] + (torch.arange(target, device=start.device) + 0.5) * scale[:, None]
    if flip is not None:
        center = torch.where(flip[:, None], center.flip(1), center)
    pixel = torch.arange(source, device=start.device) + 0.5
    weights = _kernel((pixel - center[:, :, None]) / width[:, None, None], interpolation)
    inside = (pixel > start[:, None] - 0.5 + EDGE) & (
        pixel < (start + length)[:, None] + 0.5 - EDGE
    )
    weights = weights * inside[:, None, :]
    return weights / weights.sum(dim=2, keepdim=True)


def blur_reach(size: int) -> int:
    """Return how many pixels the blur kernel reaches to each side, for images of a side in px."""
    return max(1, round(_BLUR_REACH * size))


def blur_matrices(sigma: Tensor, size: int) -> Tensor:
    """Return matrices of a Gaussian blur of one axis with reflected borders, [N, size, size].

    The kernel is a tenth of the side wide, as in SimCLR's code.

    Args:
        sigma: [N] in px, > 0.
        size: length of the axis in px.
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
    """Apply row and column matrices to images.

    Args:
        images: [N, C, H, W].
        rows: [N, h, H].
        columns: [N, w, W].

    Returns:
        [N, C, h, w].
    """
    return _down(_across(images, columns), rows)


def _across(images: Tensor, columns: Tensor) -> Tensor:
    n, channels, height, width = images.shape
    wide = torch.bmm(images.reshape(n, channels * height, width), columns.transpose(1, 2))
    return wide.view(n, channels, height, -1)


def _down(images: Tensor, rows: Tensor) -> Tensor:
    return torch.matmul(rows[:, None], images)

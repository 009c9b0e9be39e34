"""Crop, flip, resize and blur a batch by matrix products, for GPUs; `resample_cpu` is for CPUs.

All of these are linear and separable, so the result for one image is `rows @ image @ columns.T`. A
batch in which every image has its own crop takes two batched matrix products. It is antialiased and
rounded as in Pillow. torchvision's functions take one crop for a whole batch.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamclip.data.prefetch import to_device

Interpolation = Literal["bilinear", "bicubic"]
_BLUR_REACH = 0.05
"""Reach of the blur kernel to each side of a pixel, as a share of the image's side. SimCLR's kernel
is a tenth wide."""
EDGE = 1e-3
"""A pixel is part of a crop only if the crop covers more of it than this."""


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
        interpolation: interpolation for resizing.

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
    """Round to 8 bits in place, as Pillow does after each axis.

    This cuts off the overshoot of bicubic at an edge, which would otherwise spread along the other
    axis.
    """
    return values.add_(0.5).floor_().clamp_(0, 255)


def blur(images: Tensor, sigma: NDArray[np.float32]) -> None:
    """Blur images [N, C, S, S] in place, each by its own σ in px, [N]; 0 is no blur."""
    is_blurred = sigma > 0
    rows = to_device(torch.from_numpy(np.flatnonzero(is_blurred)), images.device)
    sigmas = to_device(torch.from_numpy(sigma[is_blurred]), images.device)
    matrices = blur_matrices(sigmas, images.shape[-1])
    images[rows] = apply_matrices(images.index_select(0, rows), matrices, matrices)


def _kernel(x: Tensor, interpolation: Interpolation) -> Tensor:
    """Return the weights of Pillow's filters: the triangle, and Keys' cubic with a = -0.5.

    Args:
        x: distances from the center of the filter, in px of the coarser grid.
        interpolation: name of the filter.
    """
    x = x.abs()
    if interpolation == "bilinear":
        return (1 - x).clamp_min(0)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    outer = torch.where(x < 2, outer, torch.zeros_like(x))
    return torch.where(x < 1, inner, outer)


def resize_matrices(  # noqa: PLR0913 - one axis of a crop, a flip and a resize
    start: Tensor,
    length: Tensor,
    flip: Tensor | None,
    source: int,
    target: int,
    interpolation: Interpolation,
) -> Tensor:
    """Return matrices that crop, resize and flip one axis.

    They antialias as Pillow's `resize` does: if the crop is larger than the target, the filter gets
    wider. Weights outside the crop are dropped and the rest normalized, as if the crop had been cut
    out first.

    Args:
        start: start of each crop in source pixels, [N] floats.
        length: length of each crop in source pixels, [N] floats.
        flip: which images to mirror along this axis, [N] bools; None for none of them.
        source: length of the axis in px.
        target: length of the resized axis in px.
        interpolation: interpolation for resizing.

    Returns:
        Weights of the source pixels in each target pixel, [N, target, source].
    """
    scale = length / target
    filter_width = scale.clamp_min(1.0)
    # Where the center of each target pixel is in the source, [N, target].
    target_pixels = torch.arange(target, device=start.device) + 0.5
    center = start[:, None] + target_pixels * scale[:, None]
    if flip is not None:
        center = torch.where(flip[:, None], center.flip(1), center)
    pixel = torch.arange(source, device=start.device) + 0.5
    distance = (pixel - center[:, :, None]) / filter_width[:, None, None]
    weights = _kernel(distance, interpolation)
    # Pixels that the crop touches, [N, source]; half a pixel is the distance of center and edge.
    end = start + length
    after_start = pixel > start[:, None] - 0.5 + EDGE
    before_end = pixel < end[:, None] + 0.5 - EDGE
    inside = after_start & before_end
    weights = weights * inside[:, None, :]
    return weights / weights.sum(dim=2, keepdim=True)


def blur_reach(size: int) -> int:
    """Return how many px the blur kernel reaches to each side, for images of `size` px."""
    return max(1, round(_BLUR_REACH * size))


def blur_matrices(sigma: Tensor, size: int) -> Tensor:
    """Return matrices of a Gaussian blur of one axis with reflected borders, [N, size, size].

    The kernel is a tenth of the side wide, as in SimCLR's code.

    Args:
        sigma: [N] in px, > 0.
        size: length of the axis in px.
    """
    reach = blur_reach(size)
    # The kernel of each image, [N, 2 · reach + 1].
    offsets = torch.arange(-reach, reach + 1, device=sigma.device)
    taps = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    taps = taps / taps.sum(dim=1, keepdim=True)
    # The source pixel under each tap, [size, taps], reflected at both borders without repeating the
    # border itself.
    source = torch.arange(size, device=sigma.device)[:, None] + offsets
    source = source.abs()
    source = torch.where(source >= size, 2 * (size - 1) - source, source)
    # Reflected taps may meet on one pixel, so they are added.
    matrices = torch.zeros(len(sigma), size, size, device=sigma.device)
    index = source.expand(len(sigma), -1, -1)
    values = taps[:, None, :].expand(-1, size, -1).contiguous()
    return matrices.scatter_add_(2, index, values)


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
    """Apply [N, w, W] to the columns: [N, C, H, W] -> [N, C, H, w]."""
    # One product for all channels of an image.
    n, channels, height, width = images.shape
    wide = torch.bmm(images.reshape(n, channels * height, width), columns.transpose(1, 2))
    return wide.view(n, channels, height, -1)


def _down(images: Tensor, rows: Tensor) -> Tensor:
    """Apply [N, h, H] to the rows: [N, C, H, W] -> [N, C, h, W]."""
    return torch.matmul(rows[:, None], images)

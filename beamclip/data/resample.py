"""Cropping, flipping, resizing and blurring as matrices.

All of them are linear and separable, so one image is `rows @ image @ columns.T`: two batched matrix products for a whole batch
of different crops, exact and antialiased as in Pillow, on any device.
"""

from typing import Literal

import torch
from torch import Tensor

Interpolation = Literal["bilinear", "bicubic"]
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
# SimCLR's blur kernel reaches a tenth of the image's side in all, so a twentieth to each side of a pixel.
_BLUR_REACH = 0.05


def _kernel(x: Tensor, interpolation: Interpolation) -> Tensor:
    """Pillow's filters: the triangle, and Keys' cubic with a = -0.5."""
    x = x.abs()
    if interpolation == "bilinear":
        return (1 - x).clamp_min(0)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, inner, torch.where(x < 2, outer, torch.zeros_like(x)))


def resize_matrices(start: Tensor, length: Tensor, flip: Tensor | None, source: int, target: int, interpolation: Interpolation) -> Tensor:
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
    inside = (pixel > start[:, None] - 0.5 + 1e-3) & (pixel < (start + length)[:, None] + 0.5 - 1e-3)
    weights = weights * inside[:, None, :]
    return weights / weights.sum(dim=2, keepdim=True)


def blur_matrices(sigma: Tensor, size: int) -> Tensor:
    """Gaussian blur of one axis with reflected borders, [N, size, size].

    sigma: [N] in px, > 0. The kernel is cut at a tenth of the side in all, as SimCLR's code does.
    """
    reach = max(1, round(_BLUR_REACH * size))
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
    n, channels, height, width = images.shape
    wide = torch.bmm(images.reshape(n, channels * height, width), columns.transpose(1, 2))
    wide = wide.reshape(n, channels, height, -1)
    return torch.matmul(rows[:, None], wide)

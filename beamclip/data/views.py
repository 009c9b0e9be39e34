"""Rendering views: stored images and drawn numbers in, normalised pixels out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from beamclip.data import colour
from beamclip.data.draw import ViewParameters
from beamclip.data.resample import Interpolation, apply_matrices, blur_matrices, resize_matrices


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
    colours at their own resolution and normalisation.

    Args:
        images: uint8 [N, S, S, 3] on the device the work should happen on.
        parameters: of these N images.

    Returns:
        float32 [N, 3, size, size], normalised.
    """
    view = _geometry(images, parameters, pixels)
    view = _colour(view, parameters)
    view = _blur(view, parameters)
    mean = torch.tensor(pixels.mean, device=view.device).view(1, 3, 1, 1)
    std = torch.tensor(pixels.std, device=view.device).view(1, 3, 1, 1)
    return (view - mean) / std


def _geometry(images: Tensor, p: ViewParameters, pixels: PixelFormat) -> Tensor:
    side, device = images.shape[1], images.device
    planes = images.permute(0, 3, 1, 2).float().div_(255)
    if side == pixels.size and not p.flip.any() and bool((p.width == 1).all() and (p.height == 1).all()):
        return planes
    left, top, width, height = (torch.from_numpy(a).to(device) * side for a in (p.left, p.top, p.width, p.height))
    flip = torch.from_numpy(p.flip).to(device)
    rows = resize_matrices(top, height, None, side, pixels.size, pixels.interpolation)
    columns = resize_matrices(left, width, flip, side, pixels.size, pixels.interpolation)
    return apply_matrices(planes, rows, columns).clamp_(0, 1)  # bicubic overshoots, and Pillow clamps too


def _colour(view: Tensor, p: ViewParameters) -> Tensor:
    if (p.jitter_order >= 0).any():
        view = colour.jitter(view, torch.from_numpy(p.jitter_order), torch.from_numpy(p.factors).to(view.device))
    if p.grey.any():
        turns_grey = torch.from_numpy(p.grey).to(view.device).view(-1, 1, 1, 1)
        view = torch.where(turns_grey, colour.grey(view), view)
    return view


def _blur(view: Tensor, p: ViewParameters) -> Tensor:
    if not (p.blur_sigma > 0).any():
        return view
    rows = torch.from_numpy(p.blur_sigma > 0).nonzero().squeeze(1).to(view.device)
    sigma = torch.from_numpy(p.blur_sigma).to(view.device)[rows] * view.shape[-1]
    matrices = blur_matrices(sigma, view.shape[-1])
    view = view.clone()
    view[rows] = apply_matrices(view[rows], matrices, matrices)
    return view

"""Colour changes of a batch in which every image has its own numbers. Values in [0, 1], clamped after each step as in torchvision."""

from collections.abc import Callable

import torch
from torch import Tensor

_LUMA = (0.2989, 0.587, 0.114)  # torchvision's rgb_to_grayscale


def grey(images: Tensor) -> Tensor:
    """Luminance, [N, 3, H, W] -> [N, 1, H, W]."""
    weights = torch.tensor(_LUMA, device=images.device, dtype=images.dtype)
    return torch.einsum("nchw,c->nhw", images, weights).unsqueeze(1)


def _blend(images: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    factor = factor.view(-1, 1, 1, 1)
    return (factor * images + (1 - factor) * other).clamp_(0, 1)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Towards black at 0."""
    return _blend(images, 0.0, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Towards the image's mean grey at 0."""
    return _blend(images, grey(images).mean(dim=(2, 3), keepdim=True), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Towards grey at 0."""
    return _blend(images, grey(images), factor)


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of HSV by `shift` turns, in [-0.5, 0.5].

    The usual three-channel form of HSV -> RGB: channel c is v − v·s·clamp(min(k, 4 − k), 0, 1) with k = (n_c + 6h) mod 6 and
    n = 5, 3, 1.
    """
    value, largest = images.max(dim=1, keepdim=True)
    spread = value - images.amin(dim=1, keepdim=True)
    safe = spread.clamp_min(1e-8)
    red, green, blue = images.unbind(1)
    ahead = torch.stack([green - blue, blue - red, red - green], dim=1).gather(1, largest)
    sixths = ahead / safe + 2 * largest
    offsets = torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1)
    k = torch.remainder(offsets + sixths + 6 * shift.view(-1, 1, 1, 1), 6)
    return value - spread * torch.minimum(k, 4 - k).clamp_(0, 1)


STEPS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (brightness, contrast, saturation, hue)


def jitter(images: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """Each image's four changes in its own order, in place of nothing: a new tensor.

    Args:
        images: [N, 3, H, W] in [0, 1].
        order: [N, 4] indices into `STEPS`, -1 for images that stay as they are. On the CPU.
        factors: [N, 4], on the images' device.
    """
    images = images.clone()
    for place in range(4):
        for step, change in enumerate(STEPS):
            rows = (order[:, place] == step).nonzero().squeeze(1).to(images.device)
            if len(rows):
                images[rows] = change(images[rows], factors[rows, step])
    return images

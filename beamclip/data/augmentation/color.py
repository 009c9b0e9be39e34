"""Colour changes of a batch in which every image has its own numbers.

All of them work in place on float [N, 3, H, W] with values in [0, 1], and clamp after each step as torchvision does. They take no
more passes over the pixels than they must and compare none of them: on a CPU comparisons are the slow ones.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamclip.data.prefetch import to_device

_LUMA = (0.2989, 0.587, 0.114)  # torchvision's rgb_to_grayscale


def luminance(images: Tensor) -> Tensor:
    """[N, 3, H, W] -> [N, 1, H, W], a new tensor."""
    red, green, blue = images.chunk(3, dim=1)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def brightness(images: Tensor, factor: Tensor) -> None:
    """Towards black at 0. factor: [N, 1, 1, 1], as for all that follow."""
    images.mul_(factor).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> None:
    """Towards the image's mean luminance at 0."""
    # Rows first: a sum over one whole image would be shared out over threads, and its last bit would depend on how many.
    mean = luminance(images).mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
    images.mul_(factor).add_((1 - factor) * mean).clamp_(0, 1)


def saturation(images: Tensor, factor: Tensor) -> None:
    """Towards luminance at 0."""
    other = luminance(images).mul_(1 - factor)
    images.mul_(factor).add_(other).clamp_(0, 1)


def hue(images: Tensor, shift: Tensor) -> None:
    """Turn the hue of HSV by `shift` turns, in [-0.5, 0.5].

    With V the largest, m the smallest and C = V − m, a pixel's hue is ½ ± (⅓ + (R − G − B + m) / 6C) turns, plus where blue is
    above green. With h the turned hue in sixths of a turn, the channels become V − C·clamp(x − 1, 0, 1), where x is 3 − |h − 3|
    for red, |h − 2| for green and |h − 4| for blue.
    """
    red, green, blue = images.chunk(3, dim=1)
    value, least = torch.maximum(green, blue), torch.minimum(green, blue)
    torch.maximum(value, red, out=value)
    torch.minimum(least, red, out=least)
    spread = value - least
    turns = (red - green).sub_(blue).add_(least).div_((6 * spread).clamp_min_(1e-8)).add_(1 / 3)
    turns.copysign_(blue - green).add_(
        shift + 1.5
    )  # never negative, where frac would round the other way
    sixths = turns.frac_().mul_(6)
    for channel, centre in ((red, 3), (green, 2), (blue, 4)):
        torch.sub(sixths, centre, out=channel)
    images.abs_()
    red.neg_().add_(3)
    images.clamp_(1, 2).mul_(-spread).add_(value + spread)


def gray(images: Tensor, _: Tensor) -> None:
    """All three channels become the luminance."""
    images.copy_(luminance(images))


GREY = 4
STEPS: tuple[Callable[[Tensor, Tensor], None], ...] = (brightness, contrast, saturation, hue, gray)


def change(images: Tensor, steps: NDArray[np.int64], numbers: NDArray[np.float32]) -> Tensor:
    """Each image's changes, one after the other.

    At every place the images are laid in the order of their steps, so that each step is done at once to all that want it.

    Args:
        images: [N, 3, H, W] in [0, 1]; may be overwritten.
        steps: [N, places] indices into `STEPS`, -1 for nothing.
        numbers: [N, len(STEPS)], the factor or shift of each step.

    Returns:
        [N, 3, H, W] in the order given.
    """
    moves, bounds, amounts = _arrange(steps, numbers)
    rows, factors = (
        to_device(torch.from_numpy(array), images.device) for array in (moves, amounts)
    )
    for place, stops in enumerate(bounds.tolist()):
        images = _laid(images, rows[place])
        for step, start, stop in zip(STEPS, stops, stops[1:], strict=False):
            if stop > start:
                step(images[start:stop], factors[place, start:stop].view(-1, 1, 1, 1))
    return _laid(images, rows[-1])


def _arrange(
    steps: NDArray[np.int64], numbers: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """How to lay the images at each place and at last back [places + 1, N], where each step's begin, and their numbers [places, N]."""
    lies = np.arange(len(steps))
    moves, bounds, amounts = [], [], []
    for column in steps.T:
        move = np.argsort(column[lies], kind="stable")
        lies = lies[move]
        moves.append(move)
        bounds.append(np.searchsorted(column[lies], range(len(STEPS) + 1)))
        amounts.append(numbers[lies, column[lies]])
    return np.stack([*moves, np.argsort(lies)]), np.stack(bounds), np.stack(amounts)


def _laid(images: Tensor, rows: Tensor) -> Tensor:
    return images.index_select(0, rows) if len(images) > 1 else images

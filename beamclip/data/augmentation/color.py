"""Change the colors of a batch in which every image has its own factors.

torchvision's transforms have one factor for a whole batch. The functions here work in place on
float [N, 3, H, W] in [0, 1], and clamp after each step as torchvision does. For speed on a CPU they
pass over the pixels only a few times and make no comparisons.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamclip.data.prefetch import to_device

_LUMA = (0.2989, 0.587, 0.114)
"""Weights of torchvision's rgb_to_grayscale."""


def luminance(images: Tensor) -> Tensor:
    """Return the luminance, [N, 3, H, W] -> [N, 1, H, W], as a new tensor."""
    red, green, blue = images.chunk(3, dim=1)
    total = red * _LUMA[0]
    return total.add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def brightness(images: Tensor, factor: Tensor) -> None:
    """Scale the brightness; a factor of 0 is black.

    Args:
        images: [N, 3, H, W] in [0, 1], changed in place. The other steps take the same.
        factor: one of each image, [N, 1, 1, 1]. The other steps take the same.
    """
    images.mul_(factor).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> None:
    """Scale the contrast; a factor of 0 is the image's mean luminance."""
    # Mean of rows first: torch would split the sum over a whole image between threads, and the last
    # bit would depend on their number.
    mean = luminance(images).mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
    images.mul_(factor).add_((1 - factor) * mean).clamp_(0, 1)


def saturation(images: Tensor, factor: Tensor) -> None:
    """Scale the saturation; a factor of 0 is gray."""
    gray_part = luminance(images).mul_(1 - factor)
    images.mul_(factor).add_(gray_part).clamp_(0, 1)


def hue(images: Tensor, shift: Tensor) -> None:
    """Rotate the hue of HSV by `shift` turns, in [-0.5, 0.5].

    V is a pixel's largest channel, m its smallest, and C = V − m. Its hue in turns is

        ½ ± (⅓ + (R − G − B + m) / 6C)        with + if blue is above green, otherwise −

    With h the rotated hue in sixths of a turn, the channels become V − C·clamp(x − 1, 0, 1),
    where x is 3 − |h − 3| for red, |h − 2| for green and |h − 4| for blue.
    """
    red, green, blue = images.chunk(3, dim=1)
    value = torch.maximum(green, blue)
    least = torch.minimum(green, blue)
    torch.maximum(value, red, out=value)
    torch.minimum(least, red, out=least)
    spread = value - least
    # Gray pixels have no spread, and no hue.
    divisor = (6 * spread).clamp_min_(1e-8)
    turns = (red - green).sub_(blue).add_(least).div_(divisor).add_(1 / 3)
    # The ½ of the formula, and a whole turn: `frac` keeps the sign, so its input must be positive.
    turns.copysign_(blue - green).add_(shift + 1.5)
    sixths = turns.frac_().mul_(6)
    # From here on the channels are overwritten: first by |h − center|, then by x.
    for channel, center in ((red, 3), (green, 2), (blue, 4)):
        torch.sub(sixths, center, out=channel)
    images.abs_()
    red.neg_().add_(3)
    # V − C·clamp(x − 1, 0, 1) is V + C − C·clamp(x, 1, 2), which saves a pass over the pixels.
    images.clamp_(1, 2).mul_(-spread).add_(value + spread)


def gray(images: Tensor, _: Tensor) -> None:
    """Set all channels to the luminance. The second argument is unused: all steps take two."""
    images.copy_(luminance(images))


GRAY = 4
"""Index of `gray` in `STEPS`."""
STEPS: tuple[Callable[[Tensor, Tensor], None], ...] = (brightness, contrast, saturation, hue, gray)


def change(images: Tensor, steps: NDArray[np.int64], numbers: NDArray[np.float32]) -> Tensor:
    """Apply each image's own sequence of steps.

    At each position of the sequences the images are sorted by their step. Then each step is applied
    at once to all images that have it there.

    Args:
        images: [N, 3, H, W] in [0, 1]; may be overwritten.
        steps: [N, positions] indices into `STEPS`, -1 for none.
        numbers: [N, len(STEPS)], the factor or shift of each step.

    Returns:
        [N, 3, H, W] in the order given.
    """
    reorderings, bounds, sorted_numbers = _sort_by_step(steps, numbers)
    rows = to_device(torch.from_numpy(reorderings), images.device)
    factors = to_device(torch.from_numpy(sorted_numbers), images.device)
    for position, bounds_here in enumerate(bounds.tolist()):
        images = _reorder(images, rows[position])
        for step, (start, stop) in zip(STEPS, pairwise(bounds_here), strict=True):
            if stop > start:
                step(images[start:stop], factors[position, start:stop].view(-1, 1, 1, 1))
    return _reorder(images, rows[-1])


def _sort_by_step(
    steps: NDArray[np.int64], numbers: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return how to sort the images by their step at each position.

    Returns:
        The reordering before each position, and one at the end back to the original order,
        [positions + 1, N].
        The first image of each step, and the end of the last one, [positions, len(STEPS) + 1].
        The number for each image's step, in sorted order, [positions, N].
    """
    order = np.arange(len(steps))
    reorderings, bounds, sorted_numbers = [], [], []
    for column in steps.T:
        # Relative to the order before, because `change` reorders the images it has just changed.
        reordering = np.argsort(column[order], kind="stable")
        order = order[reordering]
        reorderings.append(reordering)
        # Images without a step (-1) come first and are in no range.
        bounds.append(np.searchsorted(column[order], range(len(STEPS) + 1)))
        sorted_numbers.append(numbers[order, column[order]])
    reorderings.append(np.argsort(order))
    return np.stack(reorderings), np.stack(bounds), np.stack(sorted_numbers)


def _reorder(images: Tensor, rows: Tensor) -> Tensor:
    return images.index_select(0, rows) if len(images) > 1 else images

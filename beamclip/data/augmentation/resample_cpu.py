"""Crop, flip, resize and blur on a CPU, image by image with Pillow.

The views are those of `resample`, but on a CPU this is many times faster. Both round to 8 bits
after each axis; they differ by 1 where a value is exactly between two integers.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from beamclip.data.augmentation.resample import EDGE, Interpolation, blur_reach

Box = tuple[float, float, float, float]
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_NEGLIGIBLE = 1e-8
"""Weights below this are dropped: in a sum near 1, float32 can't tell them from 0."""


def crop(
    images: Tensor,
    boxes: NDArray[np.float32],
    flip: NDArray[np.bool_],
    size: int,
    interpolation: Interpolation,
) -> Tensor:
    """Cut a box out of each image, resize it, and flip some; see `resample.crop`."""
    source = images.numpy()
    target = np.empty((len(images), size, size, 3), np.uint8)
    cuts, boxes_in_cuts = _touched_pixels(boxes.astype(np.float64), images.shape[1])
    for row, (cut, box) in enumerate(zip(cuts, boxes_in_cuts, strict=True)):
        left, top, right, bottom = cut
        pixels = source[row, top:bottom, left:right].tobytes()
        image = Image.frombytes("RGB", (right - left, bottom - top), pixels)
        image = _resize(image, size, box, _FILTERS[interpolation])
        if flip[row]:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        target[row] = np.frombuffer(image.tobytes(), np.uint8).reshape(size, size, 3)
    # By default, `to` would keep the channels last in memory.
    planes = torch.from_numpy(target).permute(0, 3, 1, 2)
    return planes.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _resize(image: Image.Image, size: int, box: Box, kind: Image.Resampling) -> Image.Image:
    """Resize a box to a square: first the width, then the height, as `resample.crop` does.

    The order matters, because values are rounded in between.
    """
    left, top, right, bottom = box
    # Pillow 13 would begin with the height if that shrinks more than the width; older versions
    # don't. Two calls make sure of the order.
    if image.height > size:
        image = image.resize((size, image.height), kind, (left, 0, right, image.height))
        left, right = 0, size
    return image.resize((size, size), kind, (left, top, right, bottom))


def _touched_pixels(boxes: NDArray[np.float64], side: int) -> tuple[list[list[int]], list[Box]]:
    """Return the pixels that each box touches, and the box relative to them.

    Pillow's filter reads pixels beyond its box. They are cut off first, as in torchvision.

    Args:
        boxes: left, top, width and height, [N, 4].
        side: side of the images in px.

    Returns:
        Left, top, right and bottom of the pixels, and of the boxes inside them.
    """
    near = boxes[:, :2]
    far = boxes[:, :2] + boxes[:, 2:]
    first = np.floor(near + EDGE).clip(0, side - 1)
    # At least one pixel.
    last = np.ceil(far - EDGE).clip(first + 1, side)
    cuts = np.concatenate([first, last], axis=1).astype(int).tolist()
    relative = np.concatenate([near - first, far - first], axis=1)
    size = last - first
    inside = relative.clip(0, np.tile(size, 2)).tolist()
    return cuts, [(left, top, right, bottom) for left, top, right, bottom in inside]


def blur(images: Tensor, sigma: NDArray[np.float32]) -> None:
    """Blur images in place, each by its own σ; see `resample.blur`."""
    for row in np.flatnonzero(sigma > 0).tolist():
        taps = _taps(float(sigma[row]), images.shape[-1])
        # A very narrow kernel has only its center, which changes nothing.
        if len(taps) > 1:
            _blur(images[row], taps)


def _taps(sigma: float, size: int) -> list[float]:
    """Return the kernel from its center outwards, without negligible weights.

    The kernel is as wide as the recipe's widest blur needs, but most blurs are much narrower.
    """
    offsets = np.arange(blur_reach(size) + 1)
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    # The sum of both sides, with the center (which is 1 here) counted once.
    taps /= 2 * taps.sum() - 1
    weights: list[float] = taps[taps > _NEGLIGIBLE].tolist()
    return weights


def _blur(image: Tensor, taps: list[float]) -> None:
    """Blur one image [3, H, W] in place, given the kernel from its center outwards."""
    reach = len(taps) - 1
    height, width = image.shape[1:]
    padded = pad(image, (reach, reach, reach, reach), mode="reflect")
    # Every tap is a shifted copy of the whole image, added with its weight.
    across = padded[:, :, reach : reach + width] * taps[0]
    for k in range(1, reach + 1):
        for start in (reach - k, reach + k):
            across.add_(padded[:, :, start : start + width], alpha=taps[k])
    torch.mul(across[:, reach : reach + height], taps[0], out=image)
    for k in range(1, reach + 1):
        for start in (reach - k, reach + k):
            image.add_(across[:, start : start + height], alpha=taps[k])

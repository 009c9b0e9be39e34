"""Draw the random parameters of views.

A view is a pure function of (sample id, view id, recipe, seed). Its random numbers come from
Philox4x32-10 (Salmon et al., SC 2011, "Parallel random numbers: as easy as 1, 2, 3"). This is a
counter-based generator, which has no state: number n of stream k depends on n and k alone. So a
view can be drawn again anywhere, in any order, by any worker.

Each (sample id, view id) has its own stream. NumPy's Philox makes one stream at a time, so the
generator is written here in vectorized form.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from beamclip.config import Recipe

Floats = NDArray[np.float32]

# The constants of the paper: multipliers, and additions to the key after each round.
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(counter: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the output of ten Philox rounds.

    Args:
        counter: [4, N] 32-bit values in uint64.
        key: [2] 32-bit values in uint64.

    Returns:
        [4, N] 32-bit values in uint64.
    """
    # 32-bit values in 64 bits, so that a product has room for its high half.
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        low = c0 * _MULTIPLIERS[0]
        high = c2 * _MULTIPLIERS[1]
        c0 = (high >> _HALF) ^ c1 ^ k0
        c1 = high & _LOW
        c2 = (low >> _HALF) ^ c3 ^ k1
        c3 = low & _LOW
        k0 = (k0 + _WEYL[0]) & _LOW
        k1 = (k1 + _WEYL[1]) & _LOW
    return np.stack([c0, c1, c2, c3])


def stream_key(*parts: object) -> NDArray[np.uint64]:
    """Return the key [2] of the random numbers that these parts name."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    # Little-endian, so that every machine gets the same key.
    return np.frombuffer(digest[:8], dtype="<u4").astype(np.uint64)


def uniforms(
    ids: NDArray[np.int64], views: NDArray[np.int64], key: NDArray[np.uint64], count: int
) -> NDArray[np.float32]:
    """Return independent numbers in [0, 1), `count` for each (sample id, view id).

    Args:
        ids: sample ids, [N], non-negative.
        views: view ids, [N], in [0, 2³²).
        key: from `stream_key`.
        count: numbers a view.

    Returns:
        [count, N] float32, with 24 random bits each.
    """
    # A block is one output of the generator, four numbers.
    blocks = -(-count // 4)
    ids64 = ids.astype(np.uint64)
    n = len(ids64)
    counter = np.empty((4, blocks, n), dtype=np.uint64)
    counter[0] = ids64 & _LOW
    counter[1] = ids64 >> _HALF
    counter[2] = views.astype(np.uint64)
    counter[3] = np.arange(blocks, dtype=np.uint64)[:, None]
    words = philox4x32(counter.reshape(4, -1), key).reshape(4, blocks, n)
    # float32 has 24 bits of precision; with all 32, rounding could give 1.
    numbers = (words >> np.uint64(8)).astype(np.float32) / np.float32(1 << 24)
    return numbers.transpose(1, 0, 2).reshape(blocks * 4, n)[:count]


_ATTEMPTS = 10
"""Crops that are tried. If none fits into the image, the center is taken, as in torchvision's
RandomResizedCrop."""


@dataclass(frozen=True)
class ViewParameters:
    """Parameters of one view of each of N images; every array has N entries.

    Positions and sizes are shares of the stored image's side.
    """

    left: Floats
    top: Floats
    width: Floats
    height: Floats
    flip: NDArray[np.bool_]
    jitter_order: NDArray[np.int8]
    """[N, 4], the order of brightness 0, contrast 1, saturation 2, hue 3; -1 for no jitter."""
    factors: Floats
    """[N, 4], three factors around 1 and a hue shift in turns."""
    gray: NDArray[np.bool_]
    blur_sigma: Floats
    """σ as a share of the image's side; 0 for no blur."""

    def __len__(self) -> int:
        return len(self.left)

    @staticmethod
    def joined(parts: "Sequence[ViewParameters]") -> "ViewParameters":
        """Return the parameters of all parts' images, one part after the other."""
        arrays = {}
        for field in fields(ViewParameters):
            arrays[field.name] = np.concatenate([getattr(part, field.name) for part in parts])
        return ViewParameters(**arrays)

    def select(self, rows: NDArray[np.int64] | slice) -> "ViewParameters":
        """Return the parameters of some of the images."""
        arrays = {field.name: getattr(self, field.name)[rows] for field in fields(self)}
        return ViewParameters(**arrays)


def draw(
    recipe: Recipe, ids: NDArray[np.int64], views: NDArray[np.int64], seed: int, small: bool = False
) -> ViewParameters:
    """Draw one view of each sample.

    Each view depends only on its own id, its view id, and the other arguments.

    Args:
        recipe: the distribution of views.
        ids: sample ids, [N].
        views: view ids, [N]. Small crops need view ids of their own, which the caller chooses.
        seed: seed of the views, not of the run.
        small: draw a multi-crop recipe's small crops instead of its large ones.

    Returns:
        The parameters of N views.
    """
    # By alias, so that renaming a field of `Recipe` doesn't change the random numbers.
    key = stream_key("view", seed, recipe.model_dump_json(by_alias=True), small)
    # Four numbers for each attempt at a crop, and up to 16 for everything else.
    u = uniforms(ids, views, key, 4 * _ATTEMPTS + 16)

    # Crop. Every random number has a fixed place in `u`: moving one would change all views.
    area = recipe.small_area if small else recipe.area
    attempts = u[: 4 * _ATTEMPTS].reshape(_ATTEMPTS, 4, -1)
    left, top, width, height = _sample_crops(attempts, area, recipe.ratio)
    rest = u[4 * _ATTEMPTS :]

    # Color: factors of brightness, contrast and saturation around 1, and a shift of the hue.
    ranges = np.array(
        [recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue], np.float32
    )
    neutral = np.array([1, 1, 1, 0], np.float32)
    least = np.array([0, 0, 0, -0.5], np.float32)
    factors = (neutral + (2 * rest[0:4].T - 1) * ranges).clip(least)
    # The order of four random numbers is a random permutation.
    order = np.argsort(rest[4:8].T, axis=1).astype(np.int8)
    order[rest[8] >= recipe.jitter] = -1

    # Blur. The recipe has σ in px for an image of 224 px.
    low, high = recipe.blur_sigma
    sigma = np.where(rest[11] < recipe.blur, low + rest[12] * (high - low), 0) / 224
    return ViewParameters(
        left=left,
        top=top,
        width=width,
        height=height,
        flip=rest[9] < recipe.flip,
        jitter_order=order,
        factors=factors.astype(np.float32),
        gray=rest[10] < recipe.gray,
        blur_sigma=sigma.astype(np.float32),
    )


def _sample_crops(
    u: Floats, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return random resized crops in a unit square: left, top, width, height, each [N].

    Args:
        u: uniform numbers, [attempts, 4, N]: for area, ratio, left and top.
        area: range of the crop's area.
        ratio: range of width over height, drawn log-uniformly.
    """
    areas = area[0] + u[:, 0] * (area[1] - area[0])
    # Uniform in the logarithm, so that ratios r and 1/r are equally likely.
    aspect = np.exp(np.log(ratio[0]) + u[:, 1] * (np.log(ratio[1]) - np.log(ratio[0])))
    widths = np.sqrt(areas * aspect)
    heights = np.sqrt(areas / aspect)
    # The first attempt of each image that fits.
    fits = (widths <= 1) & (heights <= 1)
    any_fits = fits.any(axis=0)
    first = fits.argmax(axis=0)
    images = np.arange(u.shape[2])
    # If no attempt fits: the largest crop in the center with a ratio in the range.
    width = np.where(any_fits, widths[first, images], min(1.0, ratio[1]))
    height = np.where(any_fits, heights[first, images], min(1.0, 1 / ratio[0]))
    across = np.where(any_fits, u[first, 2, images], np.float32(0.5))
    down = np.where(any_fits, u[first, 3, images], np.float32(0.5))
    left = across * (1 - width)
    top = down * (1 - height)
    return (
        left.astype(np.float32),
        top.astype(np.float32),
        width.astype(np.float32),
        height.astype(np.float32),
    )

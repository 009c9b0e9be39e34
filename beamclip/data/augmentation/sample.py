"""Drawing views: from (sample id, view id, recipe, seed) to the numbers that say what to do to the image."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from beamclip.config import Recipe

# Philox4x32-10 (Salmon et al., SC 2011, "Parallel random numbers: as easy as 1, 2, 3"), vectorised over counters.
#
# A counter-based generator has no state: number n of stream k is a function of (n, k) alone. That is what lets a view be drawn
# again anywhere, in any order, by any worker.


_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(counter: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Ten rounds. counter: [4, N] and key: [2], both 32-bit values held in uint64 -> [4, N] 32-bit values."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        low, high = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (high >> _HALF) ^ c1 ^ k0,
            high & _LOW,
            (low >> _HALF) ^ c3 ^ k1,
            low & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return np.stack([c0, c1, c2, c3])


def stream_key(*parts: object) -> NDArray[np.uint64]:
    """A key [2] for a stream named by these parts."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return np.frombuffer(digest[:8], dtype="<u4").astype(np.uint64)


def uniforms(
    ids: NDArray[np.int64], views: NDArray[np.int64], key: NDArray[np.uint64], count: int
) -> NDArray[np.float32]:
    """Independent numbers in [0, 1), `count` for each (sample id, view id).

    Args:
        ids: sample ids, [N], non-negative.
        views: view ids, [N], in [0, 2³²).
        key: from `stream_key`.

    Returns:
        [count, N] float32, with 24 random bits each.
    """
    blocks = -(-count // 4)
    ids64, views64 = ids.astype(np.uint64), views.astype(np.uint64)
    n = len(ids64)
    counter = np.empty((4, blocks, n), dtype=np.uint64)
    counter[0], counter[1], counter[2] = ids64 & _LOW, ids64 >> _HALF, views64
    counter[3] = np.arange(blocks, dtype=np.uint64)[:, None]
    words = philox4x32(counter.reshape(4, -1), key).reshape(4, blocks, n)
    numbers = (words >> np.uint64(8)).astype(np.float32) / np.float32(1 << 24)
    return numbers.transpose(1, 0, 2).reshape(blocks * 4, n)[:count]


Floats = NDArray[np.float32]
_ATTEMPTS = (
    10  # as torchvision's RandomResizedCrop: after so many crops that do not fit, take the middle
)


@dataclass(frozen=True)
class ViewParameters:
    """What is done to each of N images; every array has N entries. Geometry is in shares of the stored image's side."""

    left: Floats
    top: Floats
    width: Floats
    height: Floats
    flip: NDArray[np.bool_]
    jitter_order: NDArray[np.int8]
    """[N, 4], which of brightness 0, contrast 1, saturation 2, hue 3 comes when; -1 where nothing is done."""
    factors: Floats
    """[N, 4]: three factors around 1 and a hue shift in turns."""
    gray: NDArray[np.bool_]
    blur_sigma: Floats
    """σ as a share of the image's side; 0 where there is no blur."""

    def __len__(self) -> int:
        return len(self.left)

    @staticmethod
    def joined(parts: "Sequence[ViewParameters]") -> "ViewParameters":
        """The parameters of the images of all parts, one part after the other."""
        return ViewParameters(
            **{
                f.name: np.concatenate([getattr(part, f.name) for part in parts])
                for f in fields(ViewParameters)
            }
        )

    def select(self, rows: NDArray[np.int64] | slice) -> "ViewParameters":
        """The parameters of some of the images."""
        return ViewParameters(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def draw(
    recipe: Recipe, ids: NDArray[np.int64], views: NDArray[np.int64], seed: int, small: bool = False
) -> ViewParameters:
    """Draw one view of each sample: a pure function of its arguments, element by element.

    Args:
        recipe: the distribution.
        ids: sample ids, [N].
        views: view ids, [N]. The same for all views of one kind; small crops of a view are numbered by the caller.
        seed: of the views, not of the run.
        small: draw a multi-crop recipe's small crops instead of its large ones.
    """
    # By alias, so that renaming a field of `Recipe` doesn't change the random numbers.
    key = stream_key("view", seed, recipe.model_dump_json(by_alias=True), small)
    u = uniforms(ids, views, key, 4 * _ATTEMPTS + 16)
    area = recipe.small_area if small else recipe.area
    left, top, width, height = _crop(
        u[: 4 * _ATTEMPTS].reshape(_ATTEMPTS, 4, -1), area, recipe.ratio
    )
    rest = u[4 * _ATTEMPTS :]
    ranges = np.array(
        [recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue], np.float32
    )
    factors = (np.array([1, 1, 1, 0], np.float32) + (2 * rest[0:4].T - 1) * ranges).clip(
        np.array([0, 0, 0, -0.5], np.float32)
    )
    order = np.argsort(rest[4:8].T, axis=1).astype(np.int8)
    order[rest[8] >= recipe.jitter] = -1
    low, high = recipe.blur_sigma
    sigma = np.where(rest[11] < recipe.blur, low + rest[12] * (high - low), 0) / 224
    return ViewParameters(
        left,
        top,
        width,
        height,
        rest[9] < recipe.flip,
        order,
        factors.astype(np.float32),
        rest[10] < recipe.gray,
        sigma.astype(np.float32),
    )


def _crop(
    u: Floats, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Floats, Floats, Floats, Floats]:
    """Random resized crop in a unit square, u: [attempts, 4, N]. The first attempt that fits counts, else the middle."""
    wanted = area[0] + u[:, 0] * (area[1] - area[0])
    aspect = np.exp(np.log(ratio[0]) + u[:, 1] * (np.log(ratio[1]) - np.log(ratio[0])))
    widths, heights = np.sqrt(wanted * aspect), np.sqrt(wanted / aspect)
    fits = (widths <= 1) & (heights <= 1)
    first = fits.argmax(axis=0)
    chosen = np.arange(u.shape[2])
    width = np.where(fits.any(axis=0), widths[first, chosen], min(1.0, ratio[1]))
    height = np.where(fits.any(axis=0), heights[first, chosen], min(1.0, 1 / ratio[0]))
    across, down = (
        np.where(fits.any(axis=0), u[first, place, chosen], np.float32(0.5)) for place in (2, 3)
    )
    left, top = across * (1 - width), down * (1 - height)
    return (
        left.astype(np.float32),
        top.astype(np.float32),
        width.astype(np.float32),
        height.astype(np.float32),
    )

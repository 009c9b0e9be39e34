"""Draw digits into coloured, textured scenes of 32 x 32 px.

Only +, -, *, /, square roots and comparisons of fp32 numbers are used, which IEEE 754 rounds alike everywhere: the same
seed gives the same bytes on every machine.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beamclip.data.planes import SIDE, Floats, between, digit, each, stroke, texture

INKS = {
    "red": (0.85, 0.12, 0.12),
    "green": (0.12, 0.62, 0.2),
    "blue": (0.15, 0.25, 0.85),
    "yellow": (0.95, 0.85, 0.15),
    "purple": (0.55, 0.15, 0.7),
    "orange": (0.95, 0.5, 0.1),
    "white": (0.95, 0.95, 0.95),
    "black": (0.08, 0.08, 0.08),
}
_CHUNK = 32  # scenes drawn at a time: few enough for the processor's cache, which doubles the speed
_STROKES = 2


@dataclass(frozen=True)
class Scenes:
    """images: uint8 [N, 32, 32, 3]. inks: index into `INKS` of each digit's colour, int64 [N]."""

    images: NDArray[np.uint8]
    inks: NDArray[np.int64]


def draw_scenes(digits: Floats, seed: int, start: int = 0) -> Scenes:
    """Set each digit into a scene of its own.

    Args:
        digits: ink from 0 to 1, fp32 [N, 8, 8].
        seed: of a Philox generator; a longer list of digits begins with the same scenes.
        start: leave out the scenes before this one, which then cost nothing.
    """
    first = start // _CHUNK
    images, inks = [np.empty((0, SIDE, SIDE, 3), np.uint8)], [np.empty(0, np.int64)]
    for number in range(first, -(-len(digits) // _CHUNK)):
        rng = np.random.Generator(np.random.Philox(key=[seed, number]))
        here = digits[number * _CHUNK : (number + 1) * _CHUNK]
        image, ink = _draw(np.concatenate([here, np.zeros((_CHUNK - len(here), 8, 8), np.float32)]), rng)
        images.append(image[: len(here)])
        inks.append(ink[: len(here)])
    skipped = start - first * _CHUNK
    return Scenes(np.concatenate(images)[skipped:], np.concatenate(inks)[skipped:])


def _draw(digits: Floats, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One chunk. Planes are [N, 32, 32], one a colour channel, because NumPy is quickest over long last axes."""
    count = len(digits)
    inks = rng.integers(len(INKS), size=count)
    ink = np.array(list(INKS.values()), np.float32)[inks] + between(rng, -0.08, 0.08, count, 3)
    near, far = _grounds(ink, rng)
    ground = texture(count, rng)
    strokes = [(stroke(count, rng), between(rng, 0, 1, count, 3)) for _ in range(_STROKES)]
    cover = digit(digits, rng)
    image = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for channel in range(3):
        plane = each(near[:, channel]) + each(far[:, channel] - near[:, channel]) * ground
        for alpha, colour in strokes:
            plane += alpha * (each(colour[:, channel]) - plane)
        plane += cover * (each(ink[:, channel]) - plane)
        plane += between(rng, -0.04, 0.04, count, SIDE, SIDE)
        image[..., channel] = np.clip(plane, 0, 1) * np.float32(255) + np.float32(0.5)
    return image, inks


def _grounds(ink: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Two ground colours [N, 3], both at a distance from the ink that can be small but not nothing."""
    grounds = []
    for _ in range(2):
        colour = between(rng, 0, 1, len(ink), 3)
        near = np.abs(colour - ink).max(axis=1, keepdims=True) < np.float32(0.4)
        away = np.where(colour < 0.5, colour + np.float32(0.5), colour - np.float32(0.5))
        grounds.append(np.where(near, away, colour))
    return grounds[0], grounds[1]

"""The embedded demo: real handwritten digits in colored scenes, without a network.

The digits are scikit-learn's `load_digits`: 1797 scans of 8 x 8 px, the test half of UCI's
optdigits. Its 13 writers copied the same list of digits onto forms. The forms follow one another,
so the labels show where each of the 14 begins. Which writer filled which form is not recorded, but
one writer must have filled two. Each split therefore takes adjacent forms. This makes it likely,
though not certain, that no writer is in two splits.

Scenes of 32 x 32 px are drawn with +, -, *, /, square roots and comparisons of fp32 numbers only.
IEEE 754 rounds these in the same way everywhere, so a seed gives the same bytes on every machine.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamclip.config import DataConfig
from beamclip.data.base import Item, Split, digest
from beamclip.data.class_names import resolve_classes

SIDE = 32
Floats = NDArray[np.float32]
# Pixel centers in (-1, 1).
_AXIS = (np.arange(SIDE, dtype=np.float32) + np.float32(0.5)) / np.float32(SIDE / 2) - 1
_Y, _X = (grid.copy() for grid in np.meshgrid(_AXIS, _AXIS, indexing="ij"))


def between(rng: np.random.Generator, low: float, high: float, *shape: int) -> Floats:
    """Return uniform random numbers in [low, high), fp32 of the given shape."""
    return rng.random(shape, dtype=np.float32) * np.float32(high - low) + np.float32(low)


def each(values: NDArray[Any]) -> Floats:
    """Reshape one number per scene so that it broadcasts over the pixels, [N] -> [N, 1, 1]."""
    return np.asarray(values[:, None, None], np.float32)


def texture(count: int, rng: np.random.Generator) -> Floats:
    """Return a mixture of smooth noise, a slope and stripes, 0 to 1, [N, 32, 32]."""
    # Squared, so that one of the three is often much stronger than the others.
    mix = between(rng, 0.02, 1, 3, count) ** 2
    mix /= mix[0] + mix[1] + mix[2]
    slope = _along(count, rng) * np.float32(0.35) + np.float32(0.5)
    waves = _along(count, rng) * each(between(rng, 2, 5, count)) + each(between(rng, 0, 1, count))
    # A triangle wave: a sine is rounded differently from machine to machine.
    stripes = np.abs((waves - np.floor(waves)) * 2 - 1)
    noise = _noise(count, rng)
    mixture = noise * each(mix[0]) + slope * each(mix[1]) + stripes * each(mix[2])
    return np.asarray(mixture, np.float32)


def _along(count: int, rng: np.random.Generator) -> Floats:
    """Return each pixel's position along a random direction, about -1 to 1, [N, 32, 32]."""
    x, y = between(rng, -1, 1, 2, count)
    # The small term prevents a division by 0.
    length = np.sqrt(x * x + y * y) + np.float32(1e-3)
    return np.asarray(each(x / length) * _X + each(y / length) * _Y, np.float32)


def _noise(count: int, rng: np.random.Generator, cells: int = 5) -> Floats:
    """Return a coarse random grid, interpolated bilinearly, 0 to 1, [N, 32, 32]."""
    grid = rng.random((count, cells + 1, cells + 1), dtype=np.float32)
    # The cell of each pixel along an axis, and the pixel's position in it.
    position = (_AXIS + 1) / 2 * np.float32(cells)
    floor = np.floor(position)
    cell = floor.astype(np.int64)
    part = position - floor
    rows = grid[:, cell] + (grid[:, cell + 1] - grid[:, cell]) * part[:, None]
    noise = rows[:, :, cell] + (rows[:, :, cell + 1] - rows[:, :, cell]) * part
    return np.asarray(noise, np.float32)


def stroke(count: int, rng: np.random.Generator) -> Floats:
    """Return a short straight pen stroke at a random position: ink from 0 to 1, [N, 32, 32]."""
    # The stroke goes from (x, y) to (x + dx, y + dy).
    x, y = between(rng, -1, 1, 2, count)
    dx, dy = between(rng, -0.5, 0.5, 2, count)
    px = _X - each(x)
    py = _Y - each(y)
    # The point of the stroke that is nearest to each pixel: 0 is its start, 1 its end.
    squared_length = dx * dx + dy * dy + np.float32(1e-3)
    along = np.clip(px * each(dx / squared_length) + py * each(dy / squared_length), 0, 1)
    px = px - along * each(dx)
    py = py - along * each(dy)
    distance = np.sqrt(px * px + py * py)
    ink = np.clip(np.float32(1.5) - distance * np.float32(10), 0, 1)
    return np.asarray(ink, np.float32)


def digit(scans: Floats, rng: np.random.Generator) -> Floats:
    """Rotate, scale, shift and sharpen scans, ink from 0 to 1, [N, 8, 8] -> [N, 32, 32]."""
    # Rotation by up to 17 degrees. Sine and cosine follow from the tangent of half the angle by
    # arithmetic alone.
    tangent = between(rng, -0.15, 0.15, len(scans))
    cos = (1 - tangent * tangent) / (1 + tangent * tangent)
    sin = 2 * tangent / (1 + tangent * tangent)
    # Half the scan's side, as a share of half the scene's side.
    half = between(rng, 0.5, 0.85, len(scans))
    # Shift the digit, but keep all of it in the scene.
    x, y = between(rng, -1, 1, 2, len(scans)) * (np.float32(0.95) - half)
    # Where each pixel of the scene reads the scan, in px of the padded scan, whose center is 4.5.
    px = (_X - each(x)) * each(4 / half)
    py = (_Y - each(y)) * each(4 / half)
    column = px * each(cos) + py * each(sin) + np.float32(4.5)
    row = py * each(cos) - px * each(sin) + np.float32(4.5)
    # An empty rim, so that pixels outside the scan read no ink. The second column and row on the
    # far side are for the interpolation at 9.
    padded = np.pad(scans, ((0, 0), (1, 2), (1, 2)))
    ink = _read(padded, np.clip(column, 0, 9), np.clip(row, 0, 9))
    # Sharpen the edges of the ink, and smooth the steps.
    ink = np.clip((ink - np.float32(0.25)) * 3, 0, 1)
    return np.asarray(ink * ink * (3 - 2 * ink), np.float32)


def _read(padded: Floats, column: Floats, row: Floats) -> Floats:
    """Interpolate scans bilinearly.

    Args:
        padded: [N, 11, 11] with an empty rim.
        column: where each pixel reads, 0 to 9, [N, 32, 32].
        row: likewise.

    Returns:
        Ink, [N, 32, 32].
    """
    left = np.floor(column)
    top = np.floor(row)
    # Index of each pixel's upper left neighbor in the flat array; a padded scan has 121 px.
    first = np.arange(len(padded), dtype=np.int32)[:, None, None] * 121
    index = (top * 11 + left).astype(np.int32) + first
    flat = padded.ravel()
    across = column - left
    upper = flat[index] + (flat[index + 1] - flat[index]) * across
    lower = flat[index + 11] + (flat[index + 12] - flat[index + 11]) * across
    return np.asarray(upper + (lower - upper) * (row - top), np.float32)


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
_CHUNK = 32
"""Scenes drawn at a time: few enough for the processor's cache, which doubles the speed. Another
number would change the scenes, because each chunk has its own random numbers."""
_STROKES = 2
"""Pen strokes behind each digit."""


@dataclass(frozen=True)
class Scenes:
    """Drawn scenes.

    Attributes:
        images: uint8 [N, 32, 32, 3].
        inks: index into `INKS` of each digit's color, int64 [N].
    """

    images: NDArray[np.uint8]
    inks: NDArray[np.int64]


def draw_scenes(digits: Floats, seed: int, start: int = 0) -> Scenes:
    """Draw each digit into its own scene.

    Args:
        digits: ink from 0 to 1, fp32 [N, 8, 8].
        seed: seed of a Philox generator. With the same seed, a longer list of digits begins with
            the same scenes.
        start: number of the first scene to return. Chunks before it are not drawn.
    """
    first = start // _CHUNK
    chunks = math.ceil(len(digits) / _CHUNK)
    # np.concatenate needs at least one array, even if there are no scenes.
    images = [np.empty((0, SIDE, SIDE, 3), np.uint8)]
    inks = [np.empty(0, np.int64)]
    for number in range(first, chunks):
        rng = np.random.Generator(np.random.Philox(key=[seed, number]))
        chunk = digits[number * _CHUNK : (number + 1) * _CHUNK]
        # Chunks are always full, so that a scene does not depend on how many follow it.
        padding = np.zeros((_CHUNK - len(chunk), 8, 8), np.float32)
        image, ink = _draw(np.concatenate([chunk, padding]), rng)
        images.append(image[: len(chunk)])
        inks.append(ink[: len(chunk)])
    skipped = start - first * _CHUNK
    return Scenes(np.concatenate(images)[skipped:], np.concatenate(inks)[skipped:])


def _draw(digits: Floats, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw one chunk of scenes: background, strokes, digit, noise.

    Returns:
        Images, uint8 [N, 32, 32, 3], and the index into `INKS` of each digit's color, [N].
    """
    # The order in which random numbers are drawn must stay as it is, or the scenes change.
    count = len(digits)
    inks = rng.integers(len(INKS), size=count)
    palette = np.array(list(INKS.values()), np.float32)
    ink = palette[inks] + between(rng, -0.08, 0.08, count, 3)
    near, far = _grounds(ink, rng)
    ground = texture(count, rng)
    strokes = [(stroke(count, rng), between(rng, 0, 1, count, 3)) for _ in range(_STROKES)]
    cover = digit(digits, rng)

    # Each color channel is a plane [N, 32, 32], because NumPy is fastest over long last axes.
    image = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for channel in range(3):
        plane = each(near[:, channel]) + each(far[:, channel] - near[:, channel]) * ground
        for alpha, color in strokes:
            plane += alpha * (each(color[:, channel]) - plane)
        plane += cover * (each(ink[:, channel]) - plane)
        plane += between(rng, -0.04, 0.04, count, SIDE, SIDE)
        # Assignment to uint8 truncates, so 0.5 is added to round.
        image[..., channel] = np.clip(plane, 0, 1) * np.float32(255) + np.float32(0.5)
    return image, inks


def _grounds(ink: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return two background colors [N, 3] that can be told apart from the ink."""
    grounds = []
    for _ in range(2):
        color = between(rng, 0, 1, len(ink), 3)
        is_near = np.abs(color - ink).max(axis=1, keepdims=True) < np.float32(0.4)
        # Move the color by half the range in every channel.
        moved = np.where(color < 0.5, color + np.float32(0.5), color - np.float32(0.5))
        grounds.append(np.where(is_near, moved, color))
    return grounds[0], grounds[1]


DEMO_VERSION = 1
"""Increase it whenever the scenes change. It is part of the fingerprint."""
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_FORM_STARTS = (0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667, 1797)
"""First scan of each form, and the number of all scans."""
TEACHER_FORMS = (0, 1, 2, 3, 4)
"""Forms of the demo's teacher; the student sees none of them."""
FORMS: dict[Split, tuple[int, ...]] = {"train": (5, 6, 7, 8, 9, 10), "test": (11, 12, 13)}
SCENES_PER_DIGIT: dict[Split, int] = {"train": 120, "test": 70}
"""Number of scenes for each of the ten digits of each form."""
_SEEDS: dict[Split, int] = {"train": 1, "test": 2}
_TEACHER_SEED = 3


@dataclass(frozen=True)
class TeacherScenes:
    """Training scenes of the demo's teacher.

    Attributes:
        images: uint8 [N, 32, 32, 3].
        labels: the digit, int64 [N].
        colors: index into `color_names` of the digit's ink, int64 [N].
        forms: the form of the handwriting, int64 [N].
        color_names: names of the inks.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    colors: NDArray[np.int64]
    forms: NDArray[np.int64]
    color_names: tuple[str, ...] = tuple(INKS)


def teacher_scenes(
    count: int, seed: int = 0, forms: tuple[int, ...] = TEACHER_FORMS
) -> TeacherScenes:
    """Return new scenes of handwriting that is in neither train, val nor test.

    Args:
        count: number of scenes, split evenly over forms and digits.
        seed: another seed gives other scenes with the same handwriting.
        forms: the forms whose digits are used.
    """
    scenes_per_digit = math.ceil(count / (len(forms) * len(DIGIT_NAMES)))
    rows = _rows(forms, scenes_per_digit, _TEACHER_SEED + seed)[:count]
    digits, labels, form = _scans()
    scenes = draw_scenes(digits[rows], _TEACHER_SEED + seed)
    return TeacherScenes(scenes.images, labels[rows], scenes.inks, form[rows])


class DemoSource:
    """The demo's train and test splits. Only scikit-learn's own data is read from disk."""

    notes: tuple[str, ...] = ()

    def __init__(self, config: DataConfig) -> None:
        self.names, self.keys = resolve_classes(config, DIGIT_NAMES, len(DIGIT_NAMES), exact=True)

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the scenes do."""
        return digest(["demo", DEMO_VERSION, FORMS, SCENES_PER_DIGIT, _SEEDS])

    def count(self, split: Split) -> int:
        """Return the number of scenes of a split."""
        return len(FORMS[split]) * len(DIGIT_NAMES) * SCENES_PER_DIGIT[split]

    def items(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Item]:
        """Yield items `start` to `stop` of a split."""
        digits, labels, _ = _scans()
        rows = self._rows(split)[:stop]
        images = draw_scenes(digits[rows], _SEEDS[split], start).images
        pairs = zip(images, labels[rows[start:]].tolist(), strict=True)
        for number, (image, label) in enumerate(pairs, start):
            yield Item(f"demo {split} {number}", image, label)

    def groups(self, split: Split) -> NDArray[np.int64]:
        """Return the form that each scene's handwriting comes from, int64 [count]."""
        _, _, form_of_scan = _scans()
        return form_of_scan[self._rows(split)]

    def _rows(self, split: Split) -> NDArray[np.int64]:
        return _rows(FORMS[split], SCENES_PER_DIGIT[split], _SEEDS[split])


def _rows(forms: tuple[int, ...], scenes_per_digit: int, seed: int) -> NDArray[np.int64]:
    """Return shuffled rows of the scans, `scenes_per_digit` for each digit of each form.

    A scan is repeated if there are too few; every scene is drawn differently.
    """
    _, labels, form_of_scan = _scans()
    parts = []
    for form in forms:
        for digit in range(len(DIGIT_NAMES)):
            scans = np.flatnonzero((form_of_scan == form) & (labels == digit))
            # `np.resize` repeats the array as often as needed.
            parts.append(np.resize(scans, scenes_per_digit))
    rows = np.concatenate(parts)
    # `draw_scenes` has the number of a chunk in place of 2**32, so the random numbers here are
    # independent of those that draw the scenes.
    rng = np.random.Generator(np.random.Philox(key=[seed, 2**32]))
    return rng.permutation(rows)


@cache
def _scans() -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return the ink of the scans, 0 to 1 [1797, 8, 8], their digits [1797] and forms [1797]."""
    # Imported here, because only the demo needs it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    form = np.repeat(np.arange(len(_FORM_STARTS) - 1), np.diff(_FORM_STARTS))
    return (
        bunch.images.astype(np.float32) / np.float32(16),
        bunch.target.astype(np.int64),
        form.astype(np.int64),
    )

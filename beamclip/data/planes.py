"""Planes of scenes: how much texture, stroke or digit each pixel holds, fp32 [N, 32, 32], for N scenes at once."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 32
Floats = NDArray[np.float32]
_AXIS = (np.arange(SIDE, dtype=np.float32) + np.float32(0.5)) / np.float32(SIDE / 2) - 1
_Y, _X = (grid.copy() for grid in np.meshgrid(_AXIS, _AXIS, indexing="ij"))  # pixel centres in (-1, 1)


def between(rng: np.random.Generator, low: float, high: float, *shape: int) -> Floats:
    """Uniform numbers of that shape."""
    return rng.random(shape, dtype=np.float32) * np.float32(high - low) + np.float32(low)


def each(values: NDArray[Any]) -> Floats:
    """One number a scene, [N] -> [N, 1, 1]."""
    return np.asarray(values[:, None, None], np.float32)


def texture(count: int, rng: np.random.Generator) -> Floats:
    """Smooth noise, a slope and stripes, mixed; 0 to 1."""
    mix = between(rng, 0.02, 1, 3, count) ** 2
    mix /= mix[0] + mix[1] + mix[2]
    slope = _along(count, rng) * np.float32(0.35) + np.float32(0.5)
    waves = _along(count, rng) * each(between(rng, 2, 5, count)) + each(between(rng, 0, 1, count))
    stripes = np.abs((waves - np.floor(waves)) * 2 - 1)
    return np.asarray(_noise(count, rng) * each(mix[0]) + slope * each(mix[1]) + stripes * each(mix[2]), np.float32)


def _along(count: int, rng: np.random.Generator) -> Floats:
    """How far each pixel lies along a random direction, about -1 to 1."""
    x, y = between(rng, -1, 1, 2, count)
    length = np.sqrt(x * x + y * y) + np.float32(1e-3)
    return np.asarray(each(x / length) * _X + each(y / length) * _Y, np.float32)


def _noise(count: int, rng: np.random.Generator, cells: int = 5) -> Floats:
    """A coarse random grid, read in between."""
    grid = rng.random((count, cells + 1, cells + 1), dtype=np.float32)
    place = (_AXIS + 1) / 2 * np.float32(cells)
    whole = np.floor(place)
    cell, part = whole.astype(np.int64), place - whole
    rows = grid[:, cell] + (grid[:, cell + 1] - grid[:, cell]) * part[:, None]
    return np.asarray(rows[:, :, cell] + (rows[:, :, cell + 1] - rows[:, :, cell]) * part, np.float32)


def stroke(count: int, rng: np.random.Generator) -> Floats:
    """A short straight pen stroke anywhere."""
    x, y = between(rng, -1, 1, 2, count)
    dx, dy = between(rng, -0.5, 0.5, 2, count)
    px, py = _X - each(x), _Y - each(y)
    length = dx * dx + dy * dy + np.float32(1e-3)
    along = np.clip(px * each(dx / length) + py * each(dy / length), 0, 1)
    px, py = px - along * each(dx), py - along * each(dy)
    return np.asarray(np.clip(np.float32(1.5) - np.sqrt(px * px + py * py) * np.float32(10), 0, 1), np.float32)


def digit(scans: Floats, rng: np.random.Generator) -> Floats:
    """Turn, size, shift and sharpen scans, ink from 0 to 1, [N, 8, 8]."""
    tangent = between(rng, -0.15, 0.15, len(scans))  # of half the angle: up to 17 degrees, without a sine
    cos, sin = (1 - tangent * tangent) / (1 + tangent * tangent), 2 * tangent / (1 + tangent * tangent)
    half = between(rng, 0.5, 0.85, len(scans))  # half the scan's side, in half scenes
    x, y = between(rng, -1, 1, 2, len(scans)) * (np.float32(0.95) - half)
    px, py = (_X - each(x)) * each(4 / half), (_Y - each(y)) * each(4 / half)
    column = px * each(cos) + py * each(sin) + np.float32(4.5)
    row = py * each(cos) - px * each(sin) + np.float32(4.5)
    ink = _read(np.pad(scans, ((0, 0), (1, 2), (1, 2))), np.clip(column, 0, 9), np.clip(row, 0, 9))
    ink = np.clip((ink - np.float32(0.25)) * 3, 0, 1)
    return np.asarray(ink * ink * (3 - 2 * ink), np.float32)


def _read(padded: Floats, column: Floats, row: Floats) -> Floats:
    """Bilinear. padded: [N, 11, 11] with an empty rim; column, row: where each pixel reads, 0 to 9."""
    left, top = np.floor(column), np.floor(row)
    at = (top * 11 + left).astype(np.int32) + np.arange(len(padded), dtype=np.int32)[:, None, None] * 121
    flat, across = padded.ravel(), column - left
    upper = flat[at] + (flat[at + 1] - flat[at]) * across
    lower = flat[at + 11] + (flat[at + 12] - flat[at + 11]) * across
    return np.asarray(upper + (lower - upper) * (row - top), np.float32)

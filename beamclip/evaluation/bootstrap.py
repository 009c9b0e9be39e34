"""95 % intervals by the seeded bootstrap over images (Efron and Tibshirani 1993).

Images are drawn with replacement, as many as there are, and the number is computed again.

- Accuracy: the percentile interval (chapter 13) from the 2.5 % to the 97.5 % quantile of the draws.
  If all images are right, or all wrong, every draw is the same and tells nothing about other
  images; then it is Wilson's interval.
- Calibration error: it is a sum of absolute values and therefore too large on few images, and
  larger still on draws of them. Its interval is the spread of the draws, moved to the number
  itself. It tells how far the *number* might vary over other images, not where the true error is.

None of these intervals covers another seed. The difference of two test sets varies more than
either interval says.

`scipy.stats.bootstrap` is the same for a mean. Here all numbers share their draws, so that the
draws are made once.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamclip.evaluation.metrics import (
    calibration_gaps,
    expected_calibration_error,
    wilson_interval,
)

BLOCK = 2**22
"""Drawn images that are held at once: 32 MiB."""
PERCENTILES = (2.5, 97.5)

Interval = tuple[float, float]
"""Lower and upper end, in percent."""


def resampled_sums(columns: Tensor, draws: int, seed: int) -> Tensor:
    """Return the sum of each column over the images of each draw.

    Args:
        columns: one row per image, [N, M].
        draws: number of draws of N images.
        seed: seed of the draws.

    Returns:
        fp64 [draws, M], on the CPU.
    """
    columns = columns.double().cpu()
    count = len(columns)
    generator = torch.Generator().manual_seed(seed)
    sums = []
    for block in torch.split(torch.arange(draws), max(1, BLOCK // count)):
        drawn = torch.randint(count, (len(block), count), generator=generator)
        multiplicity = torch.zeros(len(block), count, dtype=torch.float64)
        multiplicity.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        sums.append(multiplicity @ columns)
    return torch.cat(sums)


def bootstrap_intervals(
    hits: Sequence[Tensor], confidence: Tensor, draws: int, seed: int
) -> tuple[list[Interval], Interval]:
    """Return the intervals of several accuracies and of the calibration error, from the same draws.

    Args:
        hits: for each accuracy, True if the image was right, bool [N]. The first one belongs to
            `confidence`.
        confidence: highest probability of each image, [N] in 0-1.
        draws: number of draws.
        seed: seed of the draws.

    Returns:
        The interval of each accuracy, and that of the calibration error; percent.
    """
    shares = torch.stack([*hits], dim=1).double()
    columns = torch.cat([shares, calibration_gaps(confidence, hits[0])], dim=1)
    means = 100 * resampled_sums(columns, draws, seed) / len(confidence)
    accuracies = []
    for column, hit in enumerate(hits):
        interval = _interval_if_all_alike(len(hit), int(hit.sum()))
        accuracies.append(interval or _percentiles(means[:, column].numpy()))
    errors = means[:, len(hits) :].abs().sum(1).numpy()
    error = expected_calibration_error(confidence, hits[0])
    return accuracies, _interval_around(error, errors)


def class_accuracy_intervals(
    images: Tensor, right: Tensor, draws: int, seed: int
) -> list[Interval]:
    """Return the interval of each class's accuracy, with images drawn within the class.

    The number of hits is then binomial.

    Args:
        images: number of images per class, int64 [K].
        right: number of right ones among them, int64 [K].
        draws: number of draws.
        seed: seed of the draws.

    Returns:
        K intervals in percent; 0 to 100 for a class without images.
    """
    counts = images.cpu().numpy()
    hits = right.cpu().numpy()
    rng = np.random.default_rng(seed)
    drawn = rng.binomial(counts, hits / np.maximum(counts, 1), (draws, len(counts)))
    lows, highs = np.percentile(100 * drawn / np.maximum(counts, 1), PERCENTILES, axis=0)
    intervals = []
    for count, hit_count, low, high in zip(counts, hits, lows, highs, strict=True):
        interval = _interval_if_all_alike(int(count), int(hit_count))
        intervals.append(interval or (float(low), float(high)))
    return intervals


def _interval_if_all_alike(images: int, right: int) -> Interval | None:
    """Return the interval if all draws would be the same: no image, all right or all wrong."""
    if not images:
        return 0.0, 100.0
    if right in (0, images):
        return wilson_interval(100 * right / images, images)
    return None


def _interval_around(number: float, draws: NDArray[Any]) -> Interval:
    """Return the percentiles of the draws without their bias, the mean distance from the number.

    The interval always contains the number and nothing below 0.
    """
    low, high = _percentiles(draws - draws.mean() + number)
    return max(0.0, min(number, low)), max(number, high)


def _percentiles(values: NDArray[Any]) -> Interval:
    low, high = np.percentile(values, PERCENTILES)
    return float(low), float(high)

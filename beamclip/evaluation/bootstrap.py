"""95 % intervals by the seeded bootstrap over images (Efron and Tibshirani 1993).

A draw is a sample of N images with replacement from the N test images. Each metric is computed on
every draw.

- Accuracy: the percentile interval (chapter 13), from the 2.5 % to the 97.5 % quantile over the
  draws. If all images are right, or all are wrong, every draw gives the same accuracy and the
  interval would have no width. Wilson's interval is returned then.
- Calibration error: it is a sum of absolute values, so it is biased upwards on few images, and even
  more on draws of them. Its interval has the width of the percentile interval but is moved so that
  the mean of the draws is the measured error. It says how much the *measured* error would vary on
  other images, not where the true error is.

The intervals cover the choice of test images, not the training seed. The difference between two
test sets varies more than either interval shows.

`scipy.stats.bootstrap` gives the same interval for a mean. It is not used because here all metrics
share one set of draws.
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
"""Drawn image indices held in memory at once: 32 MiB as int64."""
PERCENTILES = (2.5, 97.5)
"""Ends of a 95 % interval."""

Interval = tuple[float, float]
"""Lower and upper end, in percent."""


def resampled_sums(columns: Tensor, draws: int, seed: int) -> Tensor:
    """Return the sum of each column over the images of each draw.

    Args:
        columns: M values of each image, [N, M].
        draws: number of draws, each of N images.
        seed: seed of the draws.

    Returns:
        fp64 [draws, M], on the CPU.
    """
    # On the CPU, so that a seed gives the same draws on every device.
    columns = columns.double().cpu()
    images = len(columns)
    draws_per_block = max(1, BLOCK // images)
    generator = torch.Generator().manual_seed(seed)
    sums = []
    for block in torch.split(torch.arange(draws), draws_per_block):
        drawn = torch.randint(images, (len(block), images), generator=generator)
        # How often each image was drawn. The sums are then one matrix product.
        multiplicity = torch.zeros(len(block), images, dtype=torch.float64)
        multiplicity.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        sums.append(multiplicity @ columns)
    return torch.cat(sums)


def bootstrap_intervals(
    hits: Sequence[Tensor], confidence: Tensor, draws: int, seed: int
) -> tuple[list[Interval], Interval]:
    """Return the intervals of several accuracies and of the calibration error, from the same draws.

    Args:
        hits: one tensor per accuracy, True where the image was right, bool [N]. The first one must
            be the top-1 hits, which the calibration error uses.
        confidence: highest probability of each image, [N] in 0-1.
        draws: number of draws.
        seed: seed of the draws.

    Returns:
        The interval of each accuracy and the interval of the calibration error, in percent.
    """
    hit_columns = torch.stack([*hits], dim=1).double()
    columns = torch.cat([hit_columns, calibration_gaps(confidence, hits[0])], dim=1)
    means = 100 * resampled_sums(columns, draws, seed) / len(confidence)
    accuracy_intervals = []
    for column, hit in enumerate(hits):
        interval = _interval_if_all_alike(len(hit), int(hit.sum()))
        accuracy_intervals.append(interval or _percentiles(means[:, column].numpy()))
    # The calibration error sums the absolute mean gaps of the bins, here for each draw.
    drawn_errors = means[:, len(hits) :].abs().sum(1).numpy()
    error = expected_calibration_error(confidence, hits[0])
    return accuracy_intervals, _interval_around(error, drawn_errors)


def class_accuracy_intervals(
    images: Tensor, right: Tensor, draws: int, seed: int
) -> list[Interval]:
    """Return the bootstrap interval of each class's accuracy, with images drawn within the class.

    Args:
        images: number of images per class, int64 [K].
        right: number of images per class that were predicted correctly, int64 [K].
        draws: number of draws.
        seed: seed of the draws.

    Returns:
        K intervals in percent; 0 to 100 for a class without images.
    """
    counts = images.cpu().numpy()
    hits = right.cpu().numpy()
    # Not 0, so that a class without images divides 0 by 1.
    divisors = np.maximum(counts, 1)
    rng = np.random.default_rng(seed)
    # The hits among n images drawn with replacement are binomial, so no images need be drawn.
    drawn_hits = rng.binomial(counts, hits / divisors, (draws, len(counts)))
    lows, highs = np.percentile(100 * drawn_hits / divisors, PERCENTILES, axis=0)
    intervals = []
    for count, hit_count, low, high in zip(counts, hits, lows, highs, strict=True):
        interval = _interval_if_all_alike(int(count), int(hit_count))
        intervals.append(interval or (float(low), float(high)))
    return intervals


def _interval_if_all_alike(images: int, right: int) -> Interval | None:
    """Return the interval if all draws are the same (no image, all right, all wrong), else None."""
    if not images:
        return 0.0, 100.0
    if right in (0, images):
        return wilson_interval(100 * right / images, images)
    return None


def _interval_around(measured: float, drawn: NDArray[Any]) -> Interval:
    """Return the percentile interval of the drawn values, moved so that their mean is `measured`.

    It is cut at 0 and widened, if needed, to contain `measured`.
    """
    low, high = _percentiles(drawn - drawn.mean() + measured)
    return max(0.0, min(measured, low)), max(measured, high)


def _percentiles(values: NDArray[Any]) -> Interval:
    low, high = np.percentile(values, PERCENTILES)
    return float(low), float(high)

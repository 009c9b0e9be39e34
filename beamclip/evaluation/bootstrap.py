"""95 % intervals by the bootstrap over images (Efron and Tibshirani 1993), seeded: where the number may lie over all such images.

Images are drawn anew with replacement, as often as there are, and the number is computed again. Of an accuracy the interval is that of
the percentiles (chapter 13): 2.5 % of the draws lie below and 2.5 % above. Where all images are right, or all wrong, every draw is the
same, which says nothing of other images; there it is Wilson's. The calibration error is a sum of sizes and therefore too large on few
images and larger still on draws of them: its interval is the draws' scatter, moved to the number itself, and tells how far the *number*
might fall on other images, not where the true error lies. None of them covers another seed, and two test sets differ by more than either's
interval.
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
"""Drawn images held at once: 32 MiB."""
LEVELS = (2.5, 97.5)

Interval = tuple[float, float]


def resampled_sums(columns: Tensor, draws: int, seed: int) -> Tensor:
    """Sums over the images of each draw, [N, M] -> fp64 [draws, M], on the CPU."""
    columns, count = columns.double().cpu(), len(columns)
    generator = torch.Generator().manual_seed(seed)
    sums = []
    for block in torch.split(torch.arange(draws), max(1, BLOCK // count)):
        drawn = torch.randint(count, (len(block), count), generator=generator)
        times = torch.zeros(len(block), count, dtype=torch.float64).scatter_add_(
            1, drawn, torch.ones_like(drawn, dtype=torch.float64)
        )
        sums.append(times @ columns)
    return torch.cat(sums)


def intervals(
    hits: Sequence[Tensor], confidence: Tensor, draws: int, seed: int
) -> tuple[list[Interval], Interval]:
    """Intervals in per cent of accuracies and of the calibration error, from the same draws.

    Args:
        hits: whether each image was right, bool [N], once for each accuracy; the first is what `confidence` belongs to.
        confidence: fp [N] in 0-1.
    """
    shares = torch.stack([*hits], dim=1).double()
    sums = (
        100
        * resampled_sums(
            torch.cat([shares, calibration_gaps(confidence, hits[0])], dim=1), draws, seed
        )
        / len(confidence)
    )
    accuracies = [_of_share(sums[:, column].numpy(), hit) for column, hit in enumerate(hits)]
    return accuracies, _around(
        sums[:, len(hits) :].abs().sum(1).numpy(), expected_calibration_error(confidence, hits[0])
    )


def class_intervals(images: Tensor, right: Tensor, draws: int, seed: int) -> list[Interval]:
    """Intervals in per cent of each class's accuracy, images drawn within the class: hits are then binomial.

    images, right: int64 [K]. A class without images has 0 to 100.
    """
    counts, hits, rng = images.cpu().numpy(), right.cpu().numpy(), np.random.default_rng(seed)
    drawn = rng.binomial(counts, hits / np.maximum(counts, 1), (draws, len(counts)))
    low, high = np.percentile(100 * drawn / np.maximum(counts, 1), LEVELS, axis=0)
    same = [_all_alike(int(n), int(k)) for n, k in zip(counts, hits, strict=True)]
    return [known or (float(a), float(b)) for a, b, known in zip(low, high, same, strict=True)]


def _of_share(percent: NDArray[Any], hits: Tensor) -> Interval:
    return _all_alike(len(hits), int(hits.sum())) or _percentiles(percent)


def _all_alike(images: int, right: int) -> Interval | None:
    """The interval where no draw can differ from another: of no images, or of images that are all right or all wrong."""
    if not images:
        return 0.0, 100.0
    return wilson_interval(100 * right / images, images) if right in (0, images) else None


def _around(values: NDArray[Any], number: float) -> Interval:
    """The draws' percentiles less their bias, which is the mean of their distances from the number; nothing below 0."""
    low, high = _percentiles(values - values.mean() + number)
    return max(0.0, min(number, low)), max(number, high)


def _percentiles(values: NDArray[Any]) -> Interval:
    low, high = np.percentile(values, LEVELS)
    return float(low), float(high)

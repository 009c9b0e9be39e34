"""95 % intervals by the percentile bootstrap over images (Efron and Tibshirani 1993, chapter 13), seeded.

Images are drawn anew with replacement, as often as there are, and the number is computed again; 2.5 % of the draws lie below the
interval and 2.5 % above. It says how far another test set of this size might fall, not another seed. Where all images are right, or all
wrong, every draw is the same and the interval is a point.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamclip.evaluation.metrics import calibration_gaps

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
        times = torch.zeros(len(block), count, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        sums.append(times @ columns)
    return torch.cat(sums)


def intervals(hits: Sequence[Tensor], confidence: Tensor, draws: int, seed: int) -> tuple[list[Interval], Interval]:
    """Intervals in per cent of accuracies and of the calibration error, from the same draws.

    Args:
        hits: whether each image was right, bool [N], once for each accuracy; the first is what `confidence` belongs to.
        confidence: fp [N] in 0-1.
    """
    shares = torch.stack([*hits], dim=1).double()
    sums = 100 * resampled_sums(torch.cat([shares, calibration_gaps(confidence, hits[0])], dim=1), draws, seed) / len(confidence)
    accuracies = [_percentiles(sums[:, column].numpy()) for column in range(len(hits))]
    return accuracies, _percentiles(sums[:, len(hits) :].abs().sum(1).numpy())


def class_intervals(images: Tensor, right: Tensor, draws: int, seed: int) -> list[Interval]:
    """Intervals in per cent of each class's accuracy, images drawn within the class: hits are then binomial.

    images, right: int64 [K]. A class without images has 0 to 100.
    """
    counts, rng = images.cpu().numpy(), np.random.default_rng(seed)
    drawn = rng.binomial(counts, right.cpu().numpy() / np.maximum(counts, 1), (draws, len(counts)))
    low, high = np.percentile(100 * drawn / np.maximum(counts, 1), LEVELS, axis=0)
    return [(float(a), float(b)) if n else (0.0, 100.0) for a, b, n in zip(low, high, counts, strict=True)]


def _percentiles(values: NDArray[Any]) -> Interval:
    low, high = np.percentile(values, LEVELS)
    return float(low), float(high)

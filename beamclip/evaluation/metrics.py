"""Compute accuracies, their Wilson intervals, and the calibration error, all in percent."""

import math

import torch
from torch import Tensor

BINS = 15
"""Default number of bins of the calibration error, as in Guo et al. 2017."""


def accuracy(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """Return the top-k accuracy in percent, 0 to 100.

    Args:
        scores: finite scores [N, K], or predicted classes [N] for k = 1.
        labels: int64 [N]. A label that has no score counts as a miss.
        k: an image is right if its label is among the k highest scores; 1 to K.
    """
    predicted = scores.topk(k, dim=-1).indices if scores.ndim == 2 else scores[:, None]
    hits = (predicted == labels[:, None]).any(-1)
    return 100.0 * hits.double().mean().item()


def wilson_interval(percent: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Return Wilson's score interval of an accuracy, in percent and within 0 to 100.

        (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)

    See Wilson 1927, and Brown, Cai and DasGupta 2001. The interval covers the choice of images, not
    the training seed.

    `scipy.stats.binomtest(…).proportion_ci(method="wilson")` gives the same interval but needs the
    number of hits. Published accuracies are rounded, so their number of hits is unknown.

    Args:
        percent: the accuracy, 0 to 100.
        count: number of images n.
        z: quantile of the normal distribution; the default gives a 95 % interval.

    Returns:
        Lower and upper end.
    """
    p = percent / 100
    center = p + z * z / (2 * count)
    half_width = z * math.sqrt(p * (1 - p) / count + (z / (2 * count)) ** 2)
    scale = 1 + z * z / count
    # Rounding must not move an end past p, or out of 0 to 1.
    low = max(0.0, min(p, (center - half_width) / scale))
    high = min(1.0, max(p, (center + half_width) / scale))
    return 100 * low, 100 * high


def expected_calibration_error(confidence: Tensor, hits: Tensor, bins: int = BINS) -> float:
    """Return the expected calibration error (ECE) in percent (Guo et al. 2017, arXiv 1706.04599).

        ECE = Σ_m |B_m| / N · |accuracy(B_m) − confidence(B_m)|

    B_m are the images whose confidence is in ((m − 1)/M, m/M]. The error is 0 if, for example, 70 %
    of the predictions of confidence 0.7 are right, at every confidence.

    Args:
        confidence: highest probability of each image, [N] in 0-1.
        hits: True where the prediction was right, bool [N].
        bins: number of bins M.
    """
    gap_per_bin = calibration_gaps(confidence, hits, bins).sum(0)
    return 100.0 * gap_per_bin.abs().sum().item() / len(hits)


def calibration_bins(confidence: Tensor, bins: int = BINS) -> Tensor:
    """Return the bin of each confidence, int64 [N].

    Bin m holds (m/M, (m + 1)/M]; bin 0 also holds 0.

    Args:
        confidence: highest probability of each image, [N] in 0-1.
        bins: number of bins M.
    """
    # In fp64, so that a confidence near the edge of a bin isn't rounded into the next one.
    return (confidence.double() * bins).ceil().long().clamp(1, bins) - 1


def calibration_gaps(confidence: Tensor, hits: Tensor, bins: int = BINS) -> Tensor:
    """Return confidence minus correctness (1 or 0) of each image, in the column of its bin.

    The calibration error is the sum of the absolute values of the columns' means.

    Args:
        confidence: highest probability of each image, [N] in 0-1.
        hits: True where the prediction was right, bool [N].
        bins: number of bins.

    Returns:
        fp64 [N, bins], 0 in the columns of all other bins.
    """
    bin_indices = calibration_bins(confidence, bins)
    image_gaps = confidence.double() - hits.double()
    gaps = torch.zeros(len(hits), bins, dtype=torch.float64, device=hits.device)
    return gaps.scatter_(1, bin_indices[:, None], image_gaps[:, None])


def per_class(predicted: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the number of images and of right predictions of each class, int64 [classes] each."""
    images = labels.bincount(minlength=classes)
    right = labels[predicted == labels].bincount(minlength=classes)
    return images, right


def confusions(predicted: Tensor, labels: Tensor) -> list[tuple[int, int, int]]:
    """Return wrong predictions as (true class, predicted class, images), most frequent first."""
    wrong = predicted != labels
    wrong_pairs = torch.stack([labels[wrong], predicted[wrong]], dim=1)
    pairs, counts = torch.unique(wrong_pairs, dim=0, return_counts=True)
    triples = []
    for (true_class, predicted_class), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        triples.append((true_class, predicted_class, count))
    # Equally frequent ones are in the order of their classes.
    return sorted(triples, key=lambda triple: (-triple[2], triple[:2]))

"""Accuracies in percent, their Wilson intervals, and the calibration error."""

import math

import torch
from torch import Tensor

BINS = 15
"""Default number of bins of the calibration error, the usual one."""


def accuracy(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """Return the top-k accuracy in percent, 0 to 100.

    Args:
        scores: [N, K], finite; for k = 1 also predicted classes [N].
        labels: int64 [N]. A label without a column counts as a miss.
        k: number of highest scores that the label may be among, 1 to K.
    """
    guesses = scores.topk(k, dim=-1).indices if scores.ndim == 2 else scores[:, None]
    return 100.0 * (guesses == labels[:, None]).any(-1).double().mean().item()


def wilson_interval(percent: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Return Wilson's score interval of an accuracy, in percent.

    (Wilson 1927; Brown, Cai, DasGupta 2001.)

        (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)

    It tells where the accuracy over all such images may be, not that of another seed. It never
    leaves 0 to 100. scipy's `binomtest(…).proportion_ci("wilson")` is the same but needs a whole
    number of hits, which published accuracies, rounded to a decimal or two, do not come with.

    Args:
        percent: the accuracy, 0 to 100.
        count: number of images.
        z: 1.96 gives 95 %.
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
    """Return the expected calibration error in percent.

    Guo et al. 2017, arXiv 1706.04599, equation 3, where B_m are the images with a confidence in
    ((m − 1)/M, m/M]:

        ECE = Σ_m |B_m| / N · |accuracy(B_m) − confidence(B_m)|

    It is 0 for a model that is right in 70 of 100 cases of confidence 0.7 and so on, at any
    accuracy.

    Args:
        confidence: highest probability of each image, [N] in 0-1.
        hits: True if the prediction was right, bool [N].
        bins: M.
    """
    gap_per_bin = calibration_gaps(confidence, hits, bins).sum(0)
    return 100.0 * gap_per_bin.abs().sum().item() / len(hits)


def calibration_bins(confidence: Tensor, bins: int = BINS) -> Tensor:
    """Return the bin of each confidence, int64 [N]: bin m holds (m/M, (m + 1)/M], and 0 bin 0."""
    return (confidence.double() * bins).ceil().long().clamp(1, bins) - 1


def calibration_gaps(confidence: Tensor, hits: Tensor, bins: int = BINS) -> Tensor:
    """Return confidence minus correctness of each image in the column of its bin, fp64 [N, bins].

    Args:
        confidence: highest probability of each image, [N] in 0-1.
        hits: True if the prediction was right, bool [N].
        bins: number of bins.
    """
    bin_indices = calibration_bins(confidence, bins)
    gaps = torch.zeros(len(hits), bins, dtype=torch.float64, device=hits.device)
    return gaps.scatter_(1, bin_indices[:, None], (confidence.double() - hits.double())[:, None])


def per_class(predicted: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the number of images and of right predictions per class, int64 [classes] each."""
    images = labels.bincount(minlength=classes)
    right = labels[predicted == labels].bincount(minlength=classes)
    return images, right


def confusions(predicted: Tensor, labels: Tensor) -> list[tuple[int, int, int]]:
    """Return wrong predictions as (true class, predicted class, images), most frequent first."""
    wrong = predicted != labels
    wrong_pairs = torch.stack([labels[wrong], predicted[wrong]], dim=1)
    pairs, counts = torch.unique(wrong_pairs, dim=0, return_counts=True)
    triples = []
    for (true, guess), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        triples.append((true, guess, count))
    return sorted(triples, key=lambda triple: (-triple[2], triple[:2]))

"""Accuracies in per cent, and how sure they are."""

import math

import torch
from torch import Tensor

BINS = 15
"""Of the calibration error, as usual."""


def accuracy(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """Top-k: the share of rows whose label is among the k highest scores, in per cent, 0-100.

    Args:
        scores: [N, K], finite; or, for k = 1, predicted classes [N].
        labels: int64 [N]. A label that no column stands for counts as a miss.
        k: 1 to K.
    """
    guesses = scores.topk(k, dim=-1).indices if scores.ndim == 2 else scores[:, None]
    return 100.0 * (guesses == labels[:, None]).any(-1).double().mean().item()


def wilson_interval(per_cent: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for an accuracy over so many images (Wilson 1927; Brown, Cai, DasGupta 2001), in per cent.

        (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)

    It says where the accuracy over all such images may lie, not that of another seed. z = 1.96 gives 95 %. Never leaves 0-100.
    """
    p = per_cent / 100
    middle = p + z * z / (2 * count)
    half = z * math.sqrt(p * (1 - p) / count + (z / (2 * count)) ** 2)
    scale = 1 + z * z / count
    return 100 * max(0.0, min(p, (middle - half) / scale)), 100 * min(
        1.0, max(p, (middle + half) / scale)
    )


def expected_calibration_error(confidence: Tensor, hits: Tensor, bins: int = BINS) -> float:
    """Expected calibration error in per cent (Guo et al. 2017, arXiv 1706.04599, equation 3).

        ECE = Σ_m |B_m| / N · |accuracy(B_m) − confidence(B_m)|,    B_m the images with a confidence in ((m − 1)/M, m/M]

    0 where a model that says 70 % is right in 70 of 100 cases, whatever its accuracy.

    Args:
        confidence: the highest probability of each image, [N] in 0-1.
        hits: whether it was right, bool [N].
        bins: M.
    """
    return 100.0 * calibration_gaps(confidence, hits, bins).sum(0).abs().sum().item() / len(hits)


def calibration_gaps(confidence: Tensor, hits: Tensor, bins: int = BINS) -> Tensor:
    """How much more sure than right each image was, in the column of its bin, fp64 [N, bins]."""
    place = (confidence.double() * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(len(hits), bins, dtype=torch.float64, device=hits.device)
    return gaps.scatter_(1, place[:, None], (confidence.double() - hits.double())[:, None])


def per_class(predicted: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """How many images of each class there are and how many of them were right, int64 [classes] each."""
    return labels.bincount(minlength=classes), labels[predicted == labels].bincount(
        minlength=classes
    )


def confusions(predicted: Tensor, labels: Tensor) -> list[tuple[int, int, int]]:
    """What was taken for what: (true, predicted, images), the most frequent first, without what was right."""
    wrong = predicted != labels
    pairs, counts = torch.unique(
        torch.stack([labels[wrong], predicted[wrong]], dim=1), dim=0, return_counts=True
    )
    triples = [
        (true, taken, count)
        for (true, taken), count in zip(pairs.tolist(), counts.tolist(), strict=True)
    ]
    return sorted(triples, key=lambda triple: (-triple[2], triple[:2]))

"""Accuracies in per cent, and how sure they are."""

import math

from torch import Tensor


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

    It says how far another test set of this size might fall, not another seed. z = 1.96 gives 95 %. Never leaves 0-100.
    """
    p = per_cent / 100
    middle = p + z * z / (2 * count)
    half = z * math.sqrt(p * (1 - p) / count + (z / (2 * count)) ** 2)
    scale = 1 + z * z / count
    return 100 * max(0.0, min(p, (middle - half) / scale)), 100 * min(1.0, max(p, (middle + half) / scale))

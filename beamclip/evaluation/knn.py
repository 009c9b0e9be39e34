"""Classify by weighted k-nearest neighbors.

As in InstDisc (arXiv 1805.01978) and DINO (arXiv 2104.14294):

    score(c | x) = Σ_{i in the k nearest of x} exp(cos(x, x_i) / T) · [y_i = c]
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from beamclip.config import UserError

BLOCK = 2**25
"""Similarities held in memory at once: 128 MiB in fp32."""


def check_k(ks: Sequence[int], images: int) -> None:
    """Raise UserError if one of `ks` is larger than the number of train images."""
    if max(ks) > images:
        raise UserError(
            f"probe.knn_k is {max(ks)}, but there are only {images} train images; "
            f"set it to at most {images}"
        )


@torch.no_grad()
def knn_predict(
    queries: Tensor, bank: Tensor, labels: Tensor, ks: Sequence[int], temperature: float
) -> Tensor:
    """Predict the class with the highest score, for each number of neighbors.

    The search is exact. On a tie the lowest class wins.

    Args:
        queries: features to classify, normalized or not, [Q, F].
        bank: train features on the same device, normalized or not, [N, F].
        labels: labels of the bank, int64 [N], from 0.
        ks: numbers of neighbors, each at most N. Similarities are computed once for all of them.
        temperature: T > 0, dimensionless.

    Returns:
        Predicted classes, int64 [len(ks), Q].

    Raises:
        UserError: one of `ks` is larger than N.
    """
    check_k(ks, len(bank))
    classes = int(labels.max()) + 1
    bank = F.normalize(bank.float(), dim=-1)
    queries = F.normalize(queries.float(), dim=-1)
    predictions = []
    queries_per_block = max(1, BLOCK // len(bank))
    for block in torch.split(queries, queries_per_block):
        predictions.append(_vote(block @ bank.T, labels, ks, temperature, classes))
    return torch.cat(predictions, dim=1)


def _vote(
    similarities: Tensor, labels: Tensor, ks: Sequence[int], temperature: float, classes: int
) -> Tensor:
    """Return the winning class of each query for each k, int64 [len(ks), Q].

    Args:
        similarities: cosines of queries and bank, [Q, N].
        labels: labels of the bank, int64 [N].
        ks: numbers of neighbors.
        temperature: T > 0.
        classes: number of classes.
    """
    nearest, indices = similarities.topk(max(ks), dim=-1)
    # Subtracting the largest cosine scales all weights of a query alike. Without it exp would
    # overflow at a small temperature.
    weights = ((nearest - nearest[:, :1]) / temperature).exp()
    scores = weights.new_zeros(len(weights), classes)
    winners = {}
    # Neighbors are sorted, so a larger k only adds votes to those of a smaller one.
    counted = 0
    for k in sorted(set(ks)):
        scores.scatter_add_(1, labels[indices[:, counted:k]], weights[:, counted:k])
        winners[k] = scores.argmax(-1)
        counted = k
    return torch.stack([winners[k] for k in ks])

"""Weighted k nearest neighbours, as InstDisc (arXiv 1805.01978) and DINO (arXiv 2104.14294) report it.

score(c | x) = Σ_{i in the k nearest of x} exp(cos(x, x_i) / T) · [y_i = c]
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from beamclip.config import UserError

BLOCK = 2**25
"""Similarities held at once: 128 MiB in fp32."""


def check_k(ks: Sequence[int], images: int) -> None:
    """See that there are as many neighbours as are asked for.

    Raises:
        UserError: there are not.
    """
    if max(ks) > images:
        raise UserError(
            f"probe.knn_k is {max(ks)}, but there are only {images} train images; set it to at most {images}"
        )


@torch.no_grad()
def knn_predict(
    queries: Tensor, bank: Tensor, labels: Tensor, ks: Sequence[int], temperature: float
) -> Tensor:
    """The class with the highest score for each number of neighbours, exact, int64 [len(ks), Q]; the lowest class on a tie.

    Args:
        queries: features [Q, F], any length.
        bank: train features [N, F] on the same device.
        labels: of the bank, int64 [N], from 0.
        ks: numbers of neighbours, each at most N. Similarities are computed once for all of them.
        temperature: T > 0.

    Raises:
        UserError: a k is larger than the bank.
    """
    check_k(ks, len(bank))
    bank, classes = F.normalize(bank.float(), dim=-1), int(labels.max()) + 1
    blocks = torch.split(F.normalize(queries.float(), dim=-1), max(1, BLOCK // len(bank)))
    return torch.cat(
        [_vote(block @ bank.T, labels, ks, temperature, classes) for block in blocks], dim=1
    )


def _vote(
    similarities: Tensor, labels: Tensor, ks: Sequence[int], temperature: float, classes: int
) -> Tensor:
    nearest, index = similarities.topk(max(ks), dim=-1)
    weights = (
        (nearest - nearest[:, :1]) / temperature
    ).exp()  # relative to the nearest, so that a small T can't overflow
    scores, counted, winners = weights.new_zeros(len(weights), classes), 0, {}
    for k in sorted(set(ks)):
        scores.scatter_add_(1, labels[index[:, counted:k]], weights[:, counted:k])
        counted, winners[k] = k, scores.argmax(-1)
    return torch.stack([winners[k] for k in ks])

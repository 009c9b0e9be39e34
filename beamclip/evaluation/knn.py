"""Weighted k nearest neighbours, as InstDisc (arXiv 1805.01978) and DINO (arXiv 2104.14294) report it.

score(c | x) = Σ_{i in the k nearest of x} exp(cos(x, x_i) / T) · [y_i = c]
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from beamclip.config import UserError

BLOCK = 2**25
"""Similarities held at once: 128 MiB in fp32."""


@torch.no_grad()
def knn_predict(queries: Tensor, bank: Tensor, labels: Tensor, k: int, temperature: float) -> Tensor:
    """The class with the highest score, exact, int64 [Q]; the lowest class on a tie.

    Args:
        queries: features [Q, F], any length.
        bank: train features [N, F] on the same device.
        labels: of the bank, int64 [N], from 0.
        k: neighbours, at most N.
        temperature: T > 0.

    Raises:
        UserError: k is larger than the bank.
    """
    if k > len(bank):
        raise UserError(f"probe.knn_k is {k}, but there are only {len(bank)} train images; set it to at most {len(bank)}")
    bank, classes = F.normalize(bank.float(), dim=-1), int(labels.max()) + 1
    blocks = torch.split(F.normalize(queries.float(), dim=-1), max(1, BLOCK // len(bank)))
    return torch.cat([_vote(block @ bank.T, labels, k, temperature, classes) for block in blocks])


def _vote(similarities: Tensor, labels: Tensor, k: int, temperature: float, classes: int) -> Tensor:
    nearest, index = similarities.topk(k, dim=-1)
    weights = ((nearest - nearest[:, :1]) / temperature).exp()  # relative to the nearest, so that a small T can't overflow
    scores = weights.new_zeros(len(weights), classes).scatter_add_(1, labels[index], weights)
    return scores.argmax(-1)

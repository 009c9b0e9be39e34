"""SEED (arXiv 2101.04731, and its authors' code).

    c_0 = f_T(x), c_1 … c_Q the queue                                     unit length
    p_T(j | x) = softmax_j(cos(f_T(x), c_j) / τ_T)                        0 ≤ j ≤ Q
    p_S(j | x) = softmax_j(cos(g_S(x), c_j) / τ_S)
    L          = -mean_x Σ_j p_T(j | x) log p_S(j | x)

At the authors' τ_T = 0.0001 nearly all of p_T is on c_0: the loss is then InfoNCE with the
teacher's embedding as the positive. The queue is taken as it was before this batch. While it
fills, the authors' holds random rows; ours holds fewer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from beamclip.config.base import Positive
from beamclip.config.objective_registry import Requirements, register_objective
from beamclip.objectives.queue import QueueDistillation, QueueSettings


class SeedSettings(QueueSettings):
    """SEED (arXiv 2101.04731): the queue and the image's own embedding.

    The authors' queue has 65,536 rows.
    """

    teacher_temperature: Positive = 1e-4
    student_temperature: Positive = 0.2


@register_objective(
    "seed", settings=SeedSettings, requires=Requirements(projected=True, embeddings=True)
)
class Seed(QueueDistillation):
    """Match the similarities to the image's own teacher embedding and to the queue."""

    authors_length = 65_536

    def compare(self, student: Tensor, teacher: Tensor, batch: Tensor) -> Tensor:
        """Return the cross-entropy of both sides' similarities."""
        earlier = self.earlier(batch)
        target = _similarities(teacher, teacher, earlier) / self.teacher_temperature
        logits = _similarities(student, teacher, earlier) / self.student_temperature
        return F.cross_entropy(logits, target.softmax(dim=-1))


def _similarities(rows: Tensor, own: Tensor, earlier: Tensor) -> Tensor:
    """Return the similarity of each row to its own and to all earlier ones, [N, 1 + Q]."""
    return torch.cat([(rows * own).sum(dim=-1, keepdim=True), rows @ earlier.T], dim=-1)

"""SEED (arXiv 2101.04731 and its authors' code).

    c_0 = f_T(x), c_1 … c_Q the queue                                     unit length
    p_T(j | x) = softmax_j(cos(f_T(x), c_j) / τ_T)                        0 ≤ j ≤ Q
    p_S(j | x) = softmax_j(cos(g_S(x), c_j) / τ_S)
    L          = -mean_x Σ_j p_T(j | x) log p_S(j | x)

At the authors' τ_T = 0.0001 nearly all of p_T is on c_0. The loss is then InfoNCE with the
teacher's embedding of the image as the positive.

The queue holds the teacher's embeddings of earlier images; this batch is added after the loss is
computed. The authors' queue starts with random rows. Ours starts empty and grows to its length.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from beamclip.config.base import Positive
from beamclip.config.objective_registry import Requirements, register_objective
from beamclip.objectives.queue import QueueDistillation, QueueSettings


class SeedSettings(QueueSettings):
    """SEED (arXiv 2101.04731): similarities to the queue and to the image's own embedding.

    The authors' queue has 65,536 rows.
    """

    teacher_temperature: Positive = 1e-4
    """τ_T of the teacher's softmax."""
    student_temperature: Positive = 0.2
    """τ_S of the student's softmax."""


@register_objective(
    "seed", settings=SeedSettings, requires=Requirements(projected=True, embeddings=True)
)
class Seed(QueueDistillation):
    """Match the similarities to the queue and to the teacher's embedding of the same image."""

    authors_length = 65_536

    def compare(self, student: Tensor, teacher: Tensor, batch: Tensor) -> Tensor:
        """Return the mean cross-entropy of the similarities; see `QueueDistillation.compare`."""
        earlier = self.earlier(batch)
        teacher_logits = _similarities(teacher, teacher, earlier) / self.teacher_temperature
        student_logits = _similarities(student, teacher, earlier) / self.student_temperature
        return F.cross_entropy(student_logits, teacher_logits.softmax(dim=-1))


def _similarities(rows: Tensor, positives: Tensor, earlier: Tensor) -> Tensor:
    """Return the cosines of each row with its own positive and with all earlier rows.

    Args:
        rows: unit length, [N, D].
        positives: unit length, [N, D].
        earlier: unit length, [Q, D].

    Returns:
        [N, 1 + Q], the positive first.
    """
    to_positive = (rows * positives).sum(dim=-1, keepdim=True)
    return torch.cat([to_positive, rows @ earlier.T], dim=-1)

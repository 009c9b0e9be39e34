"""SEED (arXiv 2101.04731, and its authors' code): similarities to a queue of teacher embeddings and to the image's own.

    c_0 = f_T(x), c_1 … c_Q the queue                                     unit length
    p_T(j | x) = softmax_j(cos(f_T(x), c_j) / τ_T)                        0 ≤ j ≤ Q
    p_S(j | x) = softmax_j(cos(g_S(x), c_j) / τ_S)
    L          = -mean_x Σ_j p_T(j | x) log p_S(j | x)

At the authors' τ_T = 0.0001 nearly all of p_T is on c_0: the loss then is InfoNCE with the teacher's embedding as the positive. The
queue is taken as it was before this batch. While it fills, the authors' holds random rows; ours holds fewer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from beamclip.objectives.queue import QueueDistillation


class Seed(QueueDistillation):
    """See the module."""

    def compare(self, student: Tensor, teacher: Tensor, batch: Tensor) -> Tensor:
        """See `QueueDistillation`."""
        earlier = self.earlier(batch)
        target = _similarities(teacher, teacher, earlier) / self.teacher_temperature
        logits = _similarities(student, teacher, earlier) / self.student_temperature
        return F.cross_entropy(logits, target.softmax(dim=-1))


def _similarities(rows: Tensor, own: Tensor, earlier: Tensor) -> Tensor:
    """Of each row to its own and to all earlier ones, [N, 1 + Q]."""
    return torch.cat([(rows * own).sum(dim=-1, keepdim=True), rows @ earlier.T], dim=-1)

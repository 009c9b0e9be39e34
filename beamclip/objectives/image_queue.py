"""CSM with images in place of texts: the form of LightlyTrain's first distillation.

    p_T(j | x) = softmax_j(cos(f_T(x), c_j) / τ_T)        c_j the queue, this batch's rows first
    p_S(j | x) = softmax_j(cos(g_S(x), c_j) / τ_S)
    L          = mean_x KL(p_T || p_S)

It differs from `csm` in what c_j are and in nothing else, and from `compress` in that an image is compared with itself too.
"""

import torch
from torch import Tensor

from beamclip.objectives.queue import QueueDistillation, divergence


class ImageQueue(QueueDistillation):
    """See the module."""

    def compare(self, student: Tensor, teacher: Tensor, batch: Tensor) -> Tensor:
        """See `QueueDistillation`."""
        images = torch.cat([batch, self.queue.rows.to(batch.dtype)])[: self.queue.length]
        return divergence(
            student @ images.T / self.student_temperature,
            teacher @ images.T / self.teacher_temperature,
        )

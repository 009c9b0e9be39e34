"""CSM with images in place of texts: the form of LightlyTrain's first distillation.

    p_T(j | x) = softmax_j(cos(f_T(x), c_j) / τ_T)        c_j the queue, this batch's rows first
    p_S(j | x) = softmax_j(cos(g_S(x), c_j) / τ_S)
    L          = mean_x KL(p_T || p_S)

It differs from `csm` only in the c_j, and from `compress` in that an image is also compared with
itself.
"""

import torch
from torch import Tensor

from beamclip.config.base import Positive
from beamclip.config.objective_registry import Requirements, register_objective
from beamclip.objectives.queue import LongQueueSettings, QueueDistillation, divergence


class ImageQueueSettings(LongQueueSettings):
    """CSM with images in place of texts, as LightlyTrain's first distillation.

    The queue includes the batch; its length is 8,192.
    """

    teacher_temperature: Positive = 0.07
    student_temperature: Positive = 0.07


@register_objective(
    "image_queue",
    settings=ImageQueueSettings,
    requires=Requirements(projected=True, embeddings=True),
)
class ImageQueue(QueueDistillation):
    """Match the similarities to this batch and the queue."""

    authors_length = 8_192

    def compare(self, student: Tensor, teacher: Tensor, batch: Tensor) -> Tensor:
        """Return the divergence of both sides' similarities."""
        images = torch.cat([batch, self.queue.rows.to(batch.dtype)])[: self.queue.length]
        return divergence(
            student @ images.T / self.student_temperature,
            teacher @ images.T / self.teacher_temperature,
        )

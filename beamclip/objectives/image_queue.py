"""CSM with images in place of texts, as in LightlyTrain's first distillation method.

    p_T(j | x) = softmax_j(cos(f_T(x), c_j) / τ_T)        c_j this batch, then the queue
    p_S(j | x) = softmax_j(cos(g_S(x), c_j) / τ_S)
    L          = mean_x KL(p_T || p_S)

c_j are the teacher's embeddings of this batch and of earlier images. In `csm` they are embeddings
of texts, otherwise it is the same. In `compress` this batch is left out, so that an image isn't
compared with itself.
"""

import torch
from torch import Tensor

from beamclip.config.base import Positive
from beamclip.config.objective_registry import Requirements, register_objective
from beamclip.objectives.queue import LongQueueSettings, QueueDistillation, divergence


class ImageQueueSettings(LongQueueSettings):
    """CSM with images in place of texts, as in LightlyTrain's first distillation method.

    Its queue has 8,192 rows, which include the batch.
    """

    teacher_temperature: Positive = 0.07
    """τ_T of the teacher's softmax."""
    student_temperature: Positive = 0.07
    """τ_S of the student's softmax."""


@register_objective(
    "image_queue",
    settings=ImageQueueSettings,
    requires=Requirements(projected=True, embeddings=True),
)
class ImageQueue(QueueDistillation):
    """Match the student's similarities to this batch and the queue with the teacher's."""

    authors_length = 8_192

    def compare(self, student: Tensor, teacher: Tensor, batch: Tensor) -> Tensor:
        """Return the mean KL of the similarities; see `QueueDistillation.compare`."""
        images = torch.cat([batch, self.queue.rows.to(batch.dtype)])[: self.queue.length]
        return divergence(
            student @ images.T / self.student_temperature,
            teacher @ images.T / self.teacher_temperature,
        )

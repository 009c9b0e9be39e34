"""CompRess with one queue, "1q" (arXiv 2010.14713, and its authors' code).

    p_T(j | x) = softmax_j(cos(f_T(x), c_j) / τ_T)        c_j the queue
    p_S(j | x) = softmax_j(cos(g_S(x), c_j) / τ_S)
    L          = mean_x KL(p_T || p_S)

c_j are the teacher's embeddings of earlier images. The queue is taken as it was before this batch.
While it fills, the authors' holds random rows; ours holds fewer.
"""

from torch import Tensor

from beamclip.config.base import Positive
from beamclip.config.objective_registry import Requirements, register_objective
from beamclip.objectives.queue import LongQueueSettings, QueueDistillation, divergence


class CompressSettings(LongQueueSettings):
    """CompRess-1q (arXiv 2010.14713); the authors' length is 128,000."""

    teacher_temperature: Positive = 0.04
    student_temperature: Positive = 0.04


@register_objective(
    "compress", settings=CompressSettings, requires=Requirements(projected=True, embeddings=True)
)
class Compress(QueueDistillation):
    """Match the similarities to the queue."""

    authors_length = 128_000

    def compare(self, student: Tensor, teacher: Tensor, batch: Tensor) -> Tensor:
        """Return the divergence of both sides' similarities."""
        earlier = self.earlier(batch)
        return divergence(
            student @ earlier.T / self.student_temperature,
            teacher @ earlier.T / self.teacher_temperature,
        )

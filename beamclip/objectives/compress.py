"""CompRess with one queue, called 1q (arXiv 2010.14713 and its authors' code).

    p_T(j | x) = softmax_j(cos(f_T(x), c_j) / τ_T)        c_j the queue
    p_S(j | x) = softmax_j(cos(g_S(x), c_j) / τ_S)
    L          = mean_x KL(p_T || p_S)

c_j are the teacher's embeddings of earlier images; this batch is added after the loss is computed.
The authors' queue starts with random rows. Ours starts empty and grows to its length.
"""

from torch import Tensor

from beamclip.config.base import Positive
from beamclip.config.objective_registry import Requirements, register_objective
from beamclip.objectives.queue import LongQueueSettings, QueueDistillation, divergence


class CompressSettings(LongQueueSettings):
    """CompRess-1q (arXiv 2010.14713). The authors' queue has 128,000 rows."""

    teacher_temperature: Positive = 0.04
    """τ_T of the teacher's softmax."""
    student_temperature: Positive = 0.04
    """τ_S of the student's softmax."""


@register_objective(
    "compress", settings=CompressSettings, requires=Requirements(projected=True, embeddings=True)
)
class Compress(QueueDistillation):
    """Match the student's similarities to the queue with the teacher's."""

    authors_length = 128_000

    def compare(self, student: Tensor, teacher: Tensor, batch: Tensor) -> Tensor:
        """Return the mean KL of the similarities to the queue; see `QueueDistillation.compare`."""
        earlier = self.earlier(batch)
        return divergence(
            student @ earlier.T / self.student_temperature,
            teacher @ earlier.T / self.teacher_temperature,
        )

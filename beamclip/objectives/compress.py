"""CompRess with one queue, "1q" (arXiv 2010.14713, and its authors' code): similarities to the teacher's embeddings of earlier images.

    p_T(j | x) = softmax_j(cos(f_T(x), c_j) / τ_T)        c_j the queue
    p_S(j | x) = softmax_j(cos(g_S(x), c_j) / τ_S)
    L          = mean_x KL(p_T || p_S)

The queue is taken as it was before this batch. While it fills, the authors' holds random rows; ours holds fewer.
"""

from torch import Tensor

from beamclip.objectives.queue import QueueDistillation, divergence


class Compress(QueueDistillation):
    """See the module."""

    def compare(self, student: Tensor, teacher: Tensor, batch: Tensor) -> Tensor:
        """See `QueueDistillation`."""
        earlier = self.earlier(batch)
        return divergence(
            student @ earlier.T / self.student_temperature,
            teacher @ earlier.T / self.teacher_temperature,
        )

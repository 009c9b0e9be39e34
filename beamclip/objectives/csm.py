"""Cross-modal similarity matching (CSM), our reading of BeamCLIP (arXiv 2301.02903, section on CSM).

    p_T(k | x) = softmax_k(cos(f_T(x), t_k) / τ_T)        teacher, frozen
    p_S(k | x) = softmax_k(cos(g_S(x), t_k) / τ_S)        student
    L          = mean_x KL(p_T || p_S)

t_k are the text embeddings of K class anchors, the same for both sides.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def similarity_logits(embeddings: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """Cosine similarities over temperature, [B, D] x [K, D] -> [B, K], in fp32 or better.

    Half precision is not enough here: one bf16 step in a cosine of 0.3 is 0.002, which at τ = 0.01 moves a logit by 0.2.
    """
    precision = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
    embeddings = F.normalize(embeddings.to(precision), dim=-1)
    anchors = F.normalize(anchors.to(precision), dim=-1)
    return embeddings @ anchors.T / temperature


class CrossModalSimilarityMatching(nn.Module):
    """Make the student rank the anchors as the teacher does.

    Args:
        anchors: text embeddings, one row a class, [K, D]. Need not be normalised.
        teacher_temperature: τ_T > 0, dimensionless. CLIP's own is 0.01; larger values pass on more of the ranking.
        student_temperature: τ_S > 0.
    """

    anchors: Tensor

    def __init__(self, anchors: Tensor, teacher_temperature: float, student_temperature: float) -> None:
        super().__init__()
        self.register_buffer("anchors", anchors, persistent=False)  # made again from the anchor store, never from a checkpoint
        self.teacher_temperature = teacher_temperature
        self.student_temperature = student_temperature

    def forward(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """student, teacher: embeddings of the same views, [B, D]. Returns scalars by name; "loss" has the gradient."""
        with torch.autocast(student.device.type, enabled=False):
            student_log_p = similarity_logits(student, self.anchors, self.student_temperature).log_softmax(dim=-1)
            with torch.no_grad():
                teacher_log_p = similarity_logits(teacher, self.anchors, self.teacher_temperature).log_softmax(dim=-1)
            loss = F.kl_div(student_log_p, teacher_log_p, reduction="batchmean", log_target=True)
        agreement = (student_log_p.argmax(-1) == teacher_log_p.argmax(-1)).float().mean()
        return {"loss": loss, "top1_agreement": agreement}

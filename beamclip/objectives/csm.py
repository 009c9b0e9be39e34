"""Cross-modal similarity matching (CSM), our reading of BeamCLIP (arXiv 2301.02903).

    p_T(k | x) = softmax_k(cos(f_T(x), t_k) / τ_T)        teacher, frozen
    p_S(k | x) = softmax_k(cos(g_S(x), t_k) / τ_S)        student
    L          = mean_x KL(p_T || p_S)

t_k are the text embeddings of K class anchors, the same for both sides. With M teachers, p_T is the
mean of their probabilities, each over its own text embeddings of the same classes and at its own
τ_T; the student matches the first teacher's anchors. Averaging probabilities, not logits, is our
choice: cosines of different towers have different spreads.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from beamclip.config.objective_registry import ObjectiveSettings, Requirements, register_objective
from beamclip.objectives.base import Distillation, LossContext


class CsmSettings(ObjectiveSettings):
    """Cross-modal similarity matching (arXiv 2301.02903).

    Its temperatures are `objective.teacher_temperature` and `objective.student_temperature`.
    """


def similarity_logits(embeddings: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """Return cosine similarities over temperature, [B, D] x [K, D] -> [B, K], in fp32 or better.

    Half precision is not enough here: one bf16 step in a cosine of 0.3 is 0.002, which at τ = 0.01
    moves a logit by 0.2.
    """
    precision = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
    embeddings = F.normalize(embeddings.to(precision), dim=-1)
    anchors = F.normalize(anchors.to(precision), dim=-1)
    return embeddings @ anchors.T / temperature


@register_objective(
    "csm",
    settings=CsmSettings,
    requires=Requirements(projected=True, embeddings=True, anchors=True, all_teachers=True),
)
class CrossModalSimilarityMatching(Distillation):
    """Make the student rank the anchors as its teachers do.

    Args:
        anchors: text embeddings of the same K classes from each teacher, [K, D_m]; the first ones
            are the student's anchors too. Need not be normalized.
        teacher_temperatures: τ_T > 0 of each teacher, dimensionless. CLIP's own is 0.01; larger
            values pass on more of the ranking.
        student_temperature: τ_S > 0.
    """

    def __init__(
        self,
        anchors: Sequence[Tensor],
        teacher_temperatures: Sequence[float],
        student_temperature: float,
    ) -> None:
        super().__init__()
        assert len(anchors) == len(teacher_temperatures) > 0
        for number, teacher_anchors in enumerate(anchors):
            # Not persistent: read from the anchor store, never from a checkpoint.
            self.register_buffer(f"anchors_{number}", teacher_anchors, persistent=False)
        self.teacher_temperatures = tuple(teacher_temperatures)
        self.student_temperature = student_temperature

    @classmethod
    def build(cls, settings: CsmSettings, context: LossContext) -> "CrossModalSimilarityMatching":
        """Build the objective; a teacher without a temperature of its own has the objective's."""
        own = list(context.temperatures) or [None] * len(context.anchors)
        temperatures = [temperature or context.teacher_temperature for temperature in own]
        return cls(context.anchors, temperatures, context.student_temperature)

    @property
    def anchors(self) -> tuple[Tensor, ...]:
        """The anchors of each teacher."""
        numbers = range(len(self.teacher_temperatures))
        return tuple(self.get_buffer(f"anchors_{number}") for number in numbers)

    def match(self, student: Tensor, *teachers: Tensor) -> dict[str, Tensor]:
        """Return the loss, and `top1_agreement`: how often both sides prefer the same anchor."""
        with torch.autocast(student.device.type, enabled=False):
            logits = similarity_logits(student, self.anchors[0], self.student_temperature)
            student_log_p = logits.log_softmax(dim=-1)
            with torch.no_grad():
                teacher_log_p = self.teacher_log_probabilities(*teachers)
            loss = F.kl_div(student_log_p, teacher_log_p, reduction="batchmean", log_target=True)
        agreement = (student_log_p.argmax(-1) == teacher_log_p.argmax(-1)).float().mean()
        return {"loss": loss, "top1_agreement": agreement}

    def teacher_log_probabilities(self, *teachers: Tensor) -> Tensor:
        """Return log p_T, [B, K]: the logarithm of the mean over the teachers' softmaxes."""
        log_p = []
        parts = zip(teachers, self.anchors, self.teacher_temperatures, strict=True)
        for embeddings, anchors, temperature in parts:
            logits = similarity_logits(embeddings, anchors, temperature)
            log_p.append(logits.log_softmax(dim=-1))
        if len(log_p) == 1:
            return log_p[0]
        return torch.stack(log_p).logsumexp(dim=0) - math.log(len(log_p))

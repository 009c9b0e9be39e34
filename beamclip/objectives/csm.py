"""Cross-modal similarity matching (CSM), our reading of BeamCLIP (arXiv 2301.02903).

    p_T(k | x) = softmax_k(cos(f_T(x), t_k) / τ_T)        teacher, frozen
    p_S(k | x) = softmax_k(cos(g_S(x), t_k) / τ_S)        student
    L          = mean_x KL(p_T || p_S)

t_k are the text embeddings (anchors) of K classes, the same for both sides.

With M teachers, p_T is the mean of their probabilities. Each teacher compares its image embeddings
with its own text embeddings of the same classes, at its own τ_T. The student is compared with the
first teacher's anchors. We average probabilities and not logits, because the cosines of different
teachers are spread differently.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from beamclip.config.objective_registry import ObjectiveSettings, Requirements, register_objective
from beamclip.objectives.base import Distillation, LossContext, at_least_fp32


class CsmSettings(ObjectiveSettings):
    """Cross-modal similarity matching (arXiv 2301.02903).

    Its temperatures are `objective.teacher_temperature` and `objective.student_temperature`.
    """


def similarity_logits(embeddings: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """Return cosine similarities divided by the temperature, in fp32 or better.

    Args:
        embeddings: image embeddings, normalized or not, [B, D].
        anchors: text embeddings, normalized or not, [K, D].
        temperature: τ > 0, dimensionless.

    Returns:
        [B, K].
    """
    embeddings = at_least_fp32(embeddings)
    anchors = anchors.to(embeddings.dtype)
    return F.normalize(embeddings, dim=-1) @ F.normalize(anchors, dim=-1).T / temperature


@register_objective(
    "csm",
    settings=CsmSettings,
    requires=Requirements(projected=True, embeddings=True, anchors=True, all_teachers=True),
)
class CrossModalSimilarityMatching(Distillation):
    """Match the student's softmax over the anchors with the teachers'.

    Args:
        anchors: text embeddings of the same K classes from each teacher, normalized or not,
            [K, D_m]. The student is compared with the first teacher's.
        teacher_temperatures: τ_T > 0 of each teacher, dimensionless. CLIP's own is 0.01. A larger
            value gives the less similar anchors more weight.
        student_temperature: τ_S > 0, dimensionless.
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
        """Build the objective. Without its own τ_T a teacher gets `teacher_temperature`."""
        own_temperatures = list(context.temperatures) or [None] * len(context.anchors)
        temperatures = [own or context.teacher_temperature for own in own_temperatures]
        return cls(context.anchors, temperatures, context.student_temperature)

    @property
    def anchors(self) -> tuple[Tensor, ...]:
        """The anchors of each teacher."""
        numbers = range(len(self.teacher_temperatures))
        return tuple(self.get_buffer(f"anchors_{number}") for number in numbers)

    def match(self, student: Tensor, *teachers: Tensor) -> dict[str, Tensor]:
        """Return "loss" and "top1_agreement".

        The latter is the share of images, in [0, 1], whose most similar anchor is the same for
        student and teacher.
        """
        with torch.autocast(student.device.type, enabled=False):
            logits = similarity_logits(student, self.anchors[0], self.student_temperature)
            student_log_p = logits.log_softmax(dim=-1)
            with torch.no_grad():
                teacher_log_p = self.teacher_log_probabilities(*teachers)
            loss = F.kl_div(student_log_p, teacher_log_p, reduction="batchmean", log_target=True)
        agreement = (student_log_p.argmax(-1) == teacher_log_p.argmax(-1)).float().mean()
        return {"loss": loss, "top1_agreement": agreement}

    def teacher_log_probabilities(self, *teachers: Tensor) -> Tensor:
        """Return log p_T, the logarithm of the mean of the teachers' softmaxes, [B, K].

        Args:
            *teachers: embeddings of the same B images by each teacher, [B, D_m].
        """
        log_p = []
        for embeddings, anchors, temperature in zip(
            teachers, self.anchors, self.teacher_temperatures, strict=True
        ):
            logits = similarity_logits(embeddings, anchors, temperature)
            log_p.append(logits.log_softmax(dim=-1))
        if len(log_p) == 1:
            return log_p[0]
        # The mean of probabilities, computed from logarithms so that small ones don't become 0.
        return torch.stack(log_p).logsumexp(dim=0) - math.log(len(log_p))

"""Regression of the teacher's embedding: L = mean_x (1 - cos(g_S(x), f_T(x))).

The simplest distillation: no anchors, no temperature, no other images.

With several teachers only the first one is regressed, since the student's embeddings are in its
space. Other teachers' embeddings can't be regressed as well, because each space has its own axes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from beamclip.config.objective_registry import ObjectiveSettings, Requirements, register_objective
from beamclip.objectives.base import Distillation, LossContext, at_least_fp32


class FeatureSettings(ObjectiveSettings):
    """Regression of the teacher's embedding; no settings."""


@register_objective(
    "feature", settings=FeatureSettings, requires=Requirements(projected=True, embeddings=True)
)
class FeatureRegression(Distillation):
    """Minimize the cosine distance between the student's and the first teacher's embeddings."""

    @classmethod
    def build(cls, settings: FeatureSettings, context: LossContext) -> "FeatureRegression":
        """Build the objective from its settings."""
        return cls()

    def match(self, student: Tensor, *teachers: Tensor) -> dict[str, Tensor]:
        """Return "loss", the mean cosine distance to the first teacher, in [0, 2]."""
        with torch.autocast(student.device.type, enabled=False):
            student = at_least_fp32(student)
            target = teachers[0].detach().to(student.dtype)
            cosines = F.cosine_similarity(student, target, dim=-1)
        return {"loss": 1 - cosines.mean()}

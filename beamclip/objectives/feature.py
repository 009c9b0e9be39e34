"""Regression of the teacher's embedding: L = mean_x (1 - cos(g_S(x), f_T(x))).

The plainest distillation: no anchors, no temperature, no other images. With several teachers only
the first one, whose space is the student's, is regressed. The other spaces have other axes, even
if their width is the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from beamclip.config.objective_registry import ObjectiveSettings, Requirements, register_objective
from beamclip.objectives.base import Distillation, LossContext


class FeatureSettings(ObjectiveSettings):
    """Regression of the teacher's embedding; no settings."""


@register_objective(
    "feature", settings=FeatureSettings, requires=Requirements(projected=True, embeddings=True)
)
class FeatureRegression(Distillation):
    """Turn the student's embedding towards the first teacher's."""

    @classmethod
    def build(cls, settings: FeatureSettings, context: LossContext) -> "FeatureRegression":
        """Build the objective."""
        return cls()

    def match(self, student: Tensor, *teachers: Tensor) -> dict[str, Tensor]:
        """Return the loss of the first teacher's embeddings."""
        with torch.autocast(student.device.type, enabled=False):
            precision = torch.float64 if student.dtype == torch.float64 else torch.float32
            target = teachers[0].detach().to(precision)
            cosines = F.cosine_similarity(student.to(precision), target, dim=-1)
        return {"loss": 1 - cosines.mean()}

"""Regression of the teacher's embedding: L = mean_x (1 - cos(g_S(x), f_T(x))).

The plainest distillation there is: no anchors, no temperature, no other images. With several teachers only the first one, whose space
is the student's, is regressed; the others' spaces have other axes even where their width is the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from beamclip.objectives.base import Distillation


class FeatureRegression(Distillation):
    """Turn the student's embedding towards the first teacher's."""

    def match(self, student: Tensor, *teachers: Tensor) -> dict[str, Tensor]:
        """See `Distillation`."""
        with torch.autocast(student.device.type, enabled=False):
            precision = torch.float64 if student.dtype == torch.float64 else torch.float32
            cosines = F.cosine_similarity(
                student.to(precision), teachers[0].detach().to(precision), dim=-1
            )
        return {"loss": 1 - cosines.mean()}

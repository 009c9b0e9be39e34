"""SimReg (arXiv 2201.05131 and its authors' code).

    L = mean_x (2 - 2 cos(h(b_S(x)), f_T(x)))        the squared distance of unit vectors

b_S is the student's backbone and h its projector. The authors' h has four layers
(`student.projector: mlp4`) and is discarded after training. Here h is kept: its output is in the
teacher's space, so zero-shot works, also in a sum such as `csm+simreg`.

The loss is twice the loss of `feature`. The factor matters to SGD and to the weights in a sum. Only
the first teacher is regressed.
"""

from torch import Tensor

from beamclip.config.objective_registry import ObjectiveSettings, Requirements, register_objective
from beamclip.objectives.feature import FeatureRegression


class SimRegSettings(ObjectiveSettings):
    """SimReg (arXiv 2201.05131); no settings."""


@register_objective(
    "simreg", settings=SimRegSettings, requires=Requirements(projected=True, embeddings=True)
)
class SimReg(FeatureRegression):
    """Minimize the squared distance between unit-length student and first-teacher embeddings."""

    def match(self, student: Tensor, *teachers: Tensor) -> dict[str, Tensor]:
        """Return "loss", twice the loss of `feature`."""
        return {"loss": 2 * super().match(student, *teachers)["loss"]}

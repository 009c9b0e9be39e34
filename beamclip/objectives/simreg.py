"""SimReg (arXiv 2201.05131, and its authors' code).

    L = mean_x (2 - 2 cos(h(b_S(x)), f_T(x)))        the squared distance of unit vectors

h is the student's own projector, so it is trained in the teacher's space and zero-shot works,
alone or in a sum such as `csm+simreg`. The authors' h, four layers that are discarded afterwards,
is `student.projector: mlp4`. The loss is twice that of `feature`, which matters to an optimizer
without adaptive steps and to weights in a sum. Only the first teacher is regressed.
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
    """Minimize the squared distance to the first teacher's unit-length embedding."""

    def match(self, student: Tensor, *teachers: Tensor) -> dict[str, Tensor]:
        """Return twice the loss of `feature`."""
        return {"loss": 2 * super().match(student, *teachers)["loss"]}

"""SimReg (arXiv 2201.05131, and its authors' code): L = mean_x (2 - 2 cos(h(b_S(x)), f_T(x))), the squared distance of unit vectors.

h is the student's own projector, so that it is trained in the teacher's space and zero-shot works, alone or in a sum such as
`csm+simreg`. The authors' h, four layers that are thrown away after, is `student.projector: mlp4`. Beside `feature` the loss is twice as
large, which matters to an optimiser without adaptive steps and to weights in a sum. Only the first teacher is regressed.
"""

from torch import Tensor

from beamclip.objectives.feature import FeatureRegression


class SimReg(FeatureRegression):
    """See the module."""

    def match(self, student: Tensor, *teachers: Tensor) -> dict[str, Tensor]:
        """See `Distillation`."""
        return {"loss": 2 * super().match(student, *teachers)["loss"]}

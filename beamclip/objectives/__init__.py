"""One short file a method: tensors in, named scalars out. The loop knows no method."""

from collections.abc import Sequence

from torch import Tensor

from beamclip.config import ObjectiveConfig
from beamclip.objectives.csm import CrossModalSimilarityMatching, similarity_logits

__all__ = ["CrossModalSimilarityMatching", "build_objective", "similarity_logits"]


def build_objective(
    config: ObjectiveConfig, anchors: Sequence[Tensor], temperatures: Sequence[float | None] = ()
) -> CrossModalSimilarityMatching:
    """The objective a config names.

    Args:
        config: `objective` of an experiment.
        anchors: the anchors to match over, [K, D] in each teacher's own space, the first one's being the student's too.
        temperatures: each teacher's own τ_T, None for the objective's.
    """
    own = list(temperatures) or [None] * len(anchors)
    return CrossModalSimilarityMatching(anchors, [t or config.teacher_temperature for t in own], config.student_temperature)

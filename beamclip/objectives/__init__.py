"""One short file a method: tensors in, named scalars out. The loop knows no method."""

from torch import Tensor

from beamclip.config import ObjectiveConfig
from beamclip.objectives.csm import CrossModalSimilarityMatching, similarity_logits

__all__ = ["CrossModalSimilarityMatching", "build_objective", "similarity_logits"]


def build_objective(config: ObjectiveConfig, anchors: Tensor) -> CrossModalSimilarityMatching:
    """The objective a config names.

    Args:
        config: `objective` of an experiment.
        anchors: the anchors to match over, [K, D].
    """
    return CrossModalSimilarityMatching(anchors, config.teacher_temperature, config.student_temperature)

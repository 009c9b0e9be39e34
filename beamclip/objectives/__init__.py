"""One short file a method: tensors in, named scalars out. The loop knows no method."""

from beamclip.objectives.base import Distillation, LossInputs, Objective
from beamclip.objectives.build import LossContext, build_objective
from beamclip.objectives.csm import CrossModalSimilarityMatching, similarity_logits

__all__ = [
    "CrossModalSimilarityMatching",
    "Distillation",
    "LossContext",
    "LossInputs",
    "Objective",
    "build_objective",
    "similarity_logits",
]

"""One short file a method: tensors in, named scalars out. The loop knows no method."""

from beamclip.objectives.base import Distillation, Objective, Seen
from beamclip.objectives.build import Material, build_objective
from beamclip.objectives.csm import CrossModalSimilarityMatching, similarity_logits

__all__ = [
    "CrossModalSimilarityMatching",
    "Distillation",
    "Material",
    "Objective",
    "Seen",
    "build_objective",
    "similarity_logits",
]

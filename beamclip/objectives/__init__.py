"""Training objectives. Each method is one file with its settings, its requirements and its loss.

No list names these files: `beamclip.config.objective_registry` finds all that use
`@register_objective`. See docs/contributing.md for how to add one.
"""

from beamclip.objectives.base import Distillation, LossContext, LossInputs, Objective
from beamclip.objectives.build import build_objective
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

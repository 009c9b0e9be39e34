"""Objectives: one file a method, with its settings, its requirements and its loss.

`beamclip.config.objective_registry` finds the files here; nothing lists them. See
docs/contributing.md for how to add one.
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

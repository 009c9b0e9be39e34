"""Student and objective as one module: a batch in, the objective's terms out."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from beamclip.config import Needs
from beamclip.objectives import Objective, Seen
from beamclip.students import Student
from beamclip.training.batches import Batch

Autocast = Callable[[], AbstractContextManager[Any]]


class Learner(nn.Module):
    """What DDP wraps: the gradients of the student and of the objective's own parts (heads, prototypes) are averaged together.

    Args:
        student: trained; without its projector where the objective does not look at embeddings.
        objective: in full precision whatever the student runs in.
        needs: of the objective.
        autocast: the precision of the student.
    """

    def __init__(self, student: Student, objective: Objective, needs: Needs, autocast: Autocast) -> None:
        super().__init__()
        self.student, self.objective = student, objective
        self._needs, self.autocast = needs, autocast
        student.projector.requires_grad_(needs.projected)  # what has no gradient is not waited for by DDP, nor decayed

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The objective's terms for one worker's share of a step."""
        with self.autocast():
            features = self.student.features(batch.images)
            embeddings = self.student.projector(features) if self._needs.projected else None
            crops = None if batch.crops is None else self.student.features(batch.crops)
        with torch.autocast(batch.images.device.type, enabled=False):
            return self._terms(batch, features, embeddings, crops)

    def _terms(self, batch: Batch, features: Tensor, embeddings: Tensor | None, crops: Tensor | None) -> dict[str, Tensor]:
        crops, embeddings = (None if rows is None else rows.float() for rows in (crops, embeddings))
        seen = Seen(batch.count, features.float(), embeddings, crops, batch.teachers, batch.labels, batch.clusters, batch.epoch)
        terms: dict[str, Tensor] = self.objective(seen)
        return terms

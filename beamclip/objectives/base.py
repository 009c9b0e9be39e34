"""A weighted sum of objectives: L = Σ_m w_m L_m."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

# What all objectives have in common: what they are shown, and what they give back.


@dataclass
class LossInputs:
    """What an objective is shown of one step: one worker's share of the batch, B images of which V large views and C small crops.

    Views of all images stand together: row v · B + i is view v of image i, and so with crops. What an objective does not ask for
    (see `beamclip.config.Requirements`) may be None or empty.

    Attributes:
        count: B.
        features: the backbone's, of the large views, [V · B, F].
        embeddings: the student's, in the first teacher's space, [V · B, D], of any length.
        crops: the backbone's features of the small crops, [C · B, F].
        teachers: each teacher's embeddings of the same large views, [V · B, D_m].
        labels: classes of the images, int64 [B].
        clusters: their clusters, int64 [B].
        epoch: how many epochs were trained before, with the part of this one that is done.
    """

    count: int
    features: Tensor
    embeddings: Tensor | None = None
    crops: Tensor | None = None
    teachers: tuple[Tensor, ...] = ()
    labels: Tensor | None = None
    clusters: Tensor | None = None
    epoch: float = 0.0


class Objective(nn.Module):
    """Tensors in, named scalars out; "loss" has the gradient, the others say what it is made of. fp32 inside, or better.

    Whatever a term holds of its own (heads, prototypes) are parameters of this module; they are trained with the student and thrown
    away after. What must survive a restart (queues) are persistent buffers, what is made again from a store (anchors, centres) are
    buffers that are not persistent. With several workers every one holds the same queue: rows are gathered before they are kept.
    """

    def forward(self, seen: LossInputs) -> dict[str, Tensor]:
        """See the class."""
        raise NotImplementedError

    def after_backward(self) -> None:
        """Called between backward and the optimiser's step: the place to drop gradients that the optimiser should not hear of."""


class Distillation(Objective):
    """An objective that compares the student's embeddings with teachers' embeddings of the same views, row by row."""

    def forward(self, seen: LossInputs) -> dict[str, Tensor]:
        """See `Objective`."""
        assert seen.embeddings is not None
        return self.match(seen.embeddings, *seen.teachers)

    def match(self, student: Tensor, *teachers: Tensor) -> dict[str, Tensor]:
        """student: [N, D]; teachers: [N, D_m] of the same views. Returns scalars by name."""
        raise NotImplementedError


class WeightedSum(Objective):
    """Several objectives that are shown the same step.

    Its terms are `loss`, the sum; `NAME_loss` of each objective, before its weight; and whatever else one says, as `NAME_TERM`.

    Args:
        objectives: by name.
        weights: w > 0 of each.
    """

    def __init__(self, objectives: Mapping[str, Objective], weights: Mapping[str, float]) -> None:
        super().__init__()
        assert objectives.keys() == weights.keys()
        self.objectives = nn.ModuleDict(dict(objectives))
        self.weights = dict(weights)

    def forward(self, seen: LossInputs) -> dict[str, Tensor]:
        """See `Objective`."""
        said: dict[str, dict[str, Tensor]] = {
            name: objective(seen) for name, objective in self.objectives.items()
        }
        losses = [self.weights[name] * terms["loss"] for name, terms in said.items()]
        parts = {
            f"{name}_{term}": value for name, terms in said.items() for term, value in terms.items()
        }
        return {"loss": sum(losses[1:], start=losses[0]), **parts}

    def after_backward(self) -> None:
        """See `Objective`."""
        for objective in self.objectives.values():
            assert isinstance(objective, Objective)
            objective.after_backward()

"""Base classes of objectives: what they are given, what they return, and sums of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass
class LossInputs:
    """Inputs of an objective in one step: one worker's share of the batch.

    B images have V large views and C small crops. Views of all images are stored together: row
    v · B + i is view v of image i, and likewise for crops. What an objective does not require (see
    `beamclip.config.objective_registry.Requirements`) may be None or empty.

    Attributes:
        count: B.
        features: the backbone's features of the large views, [V · B, F].
        embeddings: the student's embeddings in the first teacher's space, [V · B, D], of any
            length.
        crops: the backbone's features of the small crops, [C · B, F].
        teachers: each teacher's embeddings of the same large views, [V · B, D_m].
        labels: classes of the images, int64 [B].
        clusters: clusters of the images, int64 [B].
        epoch: number of epochs trained before, with the finished part of this one.
    """

    count: int
    features: Tensor
    embeddings: Tensor | None = None
    crops: Tensor | None = None
    teachers: tuple[Tensor, ...] = ()
    labels: Tensor | None = None
    clusters: Tensor | None = None
    epoch: float = 0.0


@dataclass(frozen=True)
class LossContext:
    """Facts that objectives are built from, besides their settings.

    Attributes:
        features: F, the width of the student's features.
        width: D, the width of its embeddings.
        train_images: number of images it is trained on.
        classes: number of classes they have.
        anchors: anchors of each teacher, [K, D_m]; the student's are the first teacher's.
        temperatures: each teacher's own τ_T; None for the objective's.
        centres: unit-length cluster centers, [clusters, D].
        teacher_temperature: τ_T of `csm`, `objective.teacher_temperature`.
        student_temperature: τ_S of `csm`, `objective.student_temperature`.
    """

    features: int
    width: int
    train_images: int
    classes: int
    anchors: Sequence[Tensor] = ()
    temperatures: Sequence[float | None] = ()
    centres: Tensor | None = None
    teacher_temperature: float = 0.05
    student_temperature: float = 0.05


class Objective(nn.Module):
    """Base class of objectives: tensors in, named scalars out.

    The scalar "loss" has the gradient; the others describe it. Compute in fp32 or better.

    Heads and prototypes of an objective are parameters of this module. They are trained with the
    student and discarded afterwards. Buffers that must survive a restart (queues) are persistent;
    those that are read from a store again (anchors, centers) are not. With several workers each one
    holds the same queue: rows are gathered before they are kept.
    """

    @classmethod
    def build(cls, settings: Any, context: LossContext) -> "Objective":
        """Build the objective from its settings. Default: `cls(context, **settings)`.

        Raises:
            UserError: a setting that the data can't meet, such as a queue longer than there are
                images.
        """
        return cls(context, **settings.model_dump())

    def forward(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Return scalars by name, among them "loss"."""
        raise NotImplementedError

    def after_backward(self) -> None:
        """Drop gradients that the optimizer must not see. Called between backward and its step."""


class Distillation(Objective):
    """An objective that compares student and teacher embeddings of the same views, row by row."""

    def forward(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Return `match` of the embeddings."""
        assert inputs.embeddings is not None
        return self.match(inputs.embeddings, *inputs.teachers)

    def match(self, student: Tensor, *teachers: Tensor) -> dict[str, Tensor]:
        """Return scalars by name.

        Args:
            student: [N, D].
            *teachers: [N, D_m], of the same views.
        """
        raise NotImplementedError


class FunctionObjective(Objective):
    """An objective that is a function of the step's inputs, with settings as keyword arguments."""

    def __init__(
        self, function: Callable[..., dict[str, Tensor]], settings: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.function = function
        self.settings = dict(settings)

    def forward(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Return the function's scalars."""
        return self.function(inputs, **self.settings)


class WeightedSum(Objective):
    """A weighted sum of objectives that are given the same step: L = Σ_m w_m L_m.

    Returns `loss`, the sum; `NAME_loss` of each objective, before its weight; and every other
    scalar of an objective as `NAME_SCALAR`.

    Args:
        objectives: objectives by name.
        weights: w_m > 0 by name.
    """

    def __init__(self, objectives: Mapping[str, Objective], weights: Mapping[str, float]) -> None:
        super().__init__()
        assert objectives.keys() == weights.keys()
        self.objectives = nn.ModuleDict(dict(objectives))
        self.weights = dict(weights)

    def forward(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Return the sum and its parts."""
        losses = []
        parts = {}
        for name, objective in self.objectives.items():
            scalars: dict[str, Tensor] = objective(inputs)
            losses.append(self.weights[name] * scalars["loss"])
            for scalar, value in scalars.items():
                parts[f"{name}_{scalar}"] = value
        return {"loss": sum(losses[1:], start=losses[0]), **parts}

    def after_backward(self) -> None:
        """Call `after_backward` of every objective."""
        for objective in self.objectives.values():
            assert isinstance(objective, Objective)
            objective.after_backward()

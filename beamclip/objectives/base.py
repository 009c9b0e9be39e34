"""Base classes of objectives, their inputs, and the weighted sum of several objectives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Return the tensor in fp32, or unchanged if it is fp64 (as in tests of gradients).

    Cosines in half precision are too coarse for a softmax: one bf16 step in a cosine of 0.3 is
    0.002, which at τ = 0.01 moves a logit by 0.2.
    """
    return tensor if tensor.dtype == torch.float64 else tensor.float()


@dataclass
class LossInputs:
    """Inputs of an objective in one step: one worker's share of the batch.

    Each of B images has V large views and C small crops. Row v · B + i holds view v of image i, and
    crops are ordered in the same way. A field that the objective does not require (see
    `beamclip.Requirements`) may be None or empty.

    Attributes:
        count: number of images B.
        features: the backbone's features of the large views, [V · B, F].
        embeddings: the student's embeddings in the first teacher's space, not normalized,
            [V · B, D].
        crops: the backbone's features of the small crops, [C · B, F].
        teachers: embeddings of the same large views by each teacher m, [V · B, D_m].
        labels: classes of the images, int64 [B].
        clusters: clusters of the images, int64 [B].
        epoch: training progress in epochs; 1.5 in the middle of the second epoch.
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
    """What objectives are built from, besides their own settings.

    Attributes:
        features: width F of the backbone's features.
        width: width D of the student's embeddings.
        train_images: number of training images.
        classes: number of classes of the training images.
        anchors: text embeddings of the K classes from each teacher, [K, D_m]. The student is
            compared with the first teacher's.
        temperatures: τ_T of each teacher; None stands for `teacher_temperature`.
        centers: cluster centers of unit length, [clusters, D]; None without clusters.
        teacher_temperature: τ_T of `csm`, from `objective.teacher_temperature`.
        student_temperature: τ_S of `csm`, from `objective.student_temperature`.
    """

    features: int
    width: int
    train_images: int
    classes: int
    anchors: Sequence[Tensor] = ()
    temperatures: Sequence[float | None] = ()
    centers: Tensor | None = None
    teacher_temperature: float = 0.05
    student_temperature: float = 0.05


class Objective(nn.Module):
    """Base class of objectives: tensors in, named scalars out.

    The scalar "loss" is minimized; all others are only logged. Compute in fp32 even if the inputs
    are in half precision or the caller uses autocast; see `at_least_fp32`.

    Parameters of this module, such as heads and prototypes, are trained with the student and
    discarded afterwards. A buffer is persistent, and so in the checkpoint, if a resumed run can't
    get it from elsewhere (queues). Anchors and centers are read from their stores again and are not
    persistent. All workers hold the same queue: new rows are gathered from all of them.
    """

    @classmethod
    def build(cls, settings: Any, context: LossContext) -> "Objective":
        """Build the objective. This default calls `cls(context, **settings)`.

        Args:
            settings: the settings under `objective.NAME`, an instance of the registered class.
            context: facts about the student, the data and the teachers.

        Raises:
            UserError: a setting doesn't fit the data, such as a queue longer than the number of
                training images.
        """
        return cls(context, **settings.model_dump())

    def forward(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Return scalars by name, with "loss" among them."""
        raise NotImplementedError

    def after_backward(self) -> None:
        """Drop gradients that the optimizer must not see. Called before each optimizer step."""


class Distillation(Objective):
    """An objective that compares student and teacher embeddings of the same views, row by row."""

    def forward(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Call `match` with the student's and the teachers' embeddings."""
        assert inputs.embeddings is not None
        return self.match(inputs.embeddings, *inputs.teachers)

    def match(self, student: Tensor, *teachers: Tensor) -> dict[str, Tensor]:
        """Return scalars by name, with "loss" among them.

        Args:
            student: the student's embeddings, not normalized, [N, D].
            *teachers: each teacher's embeddings of the same views, [N, D_m].
        """
        raise NotImplementedError


class FunctionObjective(Objective):
    """An objective computed by a plain function, without parameters or buffers.

    Args:
        function: takes `LossInputs` and the settings, returns scalars by name.
        settings: keyword arguments of the function.
    """

    def __init__(
        self, function: Callable[..., dict[str, Tensor]], settings: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.function = function
        self.settings = dict(settings)

    def forward(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Call the function with the inputs and the settings."""
        return self.function(inputs, **self.settings)


class WeightedSum(Objective):
    """A weighted sum of objectives over the same inputs: L = Σ_m w_m L_m.

    Args:
        objectives: objectives by name.
        weights: w_m > 0 by the same names.
    """

    def __init__(self, objectives: Mapping[str, Objective], weights: Mapping[str, float]) -> None:
        super().__init__()
        assert objectives.keys() == weights.keys()
        self.objectives = nn.ModuleDict(dict(objectives))
        self.weights = dict(weights)

    def forward(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Return the sum as "loss", and all scalars of each objective with its name in front.

        For example "csm_loss", which is not yet weighted, and "csm_top1_agreement".
        """
        weighted_losses = []
        parts = {}
        for objective_name, objective in self.objectives.items():
            scalars: dict[str, Tensor] = objective(inputs)
            weighted_losses.append(self.weights[objective_name] * scalars["loss"])
            for name, value in scalars.items():
                parts[f"{objective_name}_{name}"] = value
        return {"loss": sum(weighted_losses[1:], start=weighted_losses[0]), **parts}

    def after_backward(self) -> None:
        """Call `after_backward` of every objective."""
        for objective in self.objectives.values():
            assert isinstance(objective, Objective)
            objective.after_backward()

"""The supervised baseline: cross-entropy of a linear classifier on the backbone's features.

    L = -mean_x Σ_k y_k(x) log softmax_k(W h(x) + b),        y = (1 - α) onehot(label) + α / K

h are the backbone's features and α is the label smoothing (arXiv 1512.00567). The classifier is
discarded after training, and the student is evaluated with the same probes as all others.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from beamclip.config.errors import UserError
from beamclip.config.objective_registry import ObjectiveSettings, Requirements, register_objective
from beamclip.objectives.base import LossContext, LossInputs, Objective


class SupervisedSettings(ObjectiveSettings):
    """Cross-entropy on the labels."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Label smoothing α, the share of probability that is spread over all classes."""


@register_objective("supervised", settings=SupervisedSettings, requires=Requirements(labels=True))
class Supervised(Objective):
    """Train a linear classifier together with the backbone.

    Args:
        features: width F of the backbone's features.
        classes: number of classes K, at least 2.
        settings: label smoothing.
    """

    def __init__(self, features: int, classes: int, settings: SupervisedSettings) -> None:
        super().__init__()
        assert classes > 1
        self.label_smoothing = settings.label_smoothing
        self.classifier = nn.Linear(features, classes)

    @classmethod
    def build(cls, settings: SupervisedSettings, context: LossContext) -> "Supervised":
        """Build the objective.

        Raises:
            UserError: the training images have only one class.
        """
        if context.classes < 2:
            raise UserError(
                "objective.name supervised separates classes, but the training images have only "
                "one; give images of two classes or more, or choose another objective"
            )
        return cls(context.features, context.classes, settings)

    def forward(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Return "loss" and "accuracy", the top-1 accuracy in [0, 1], over all views."""
        assert inputs.labels is not None
        with torch.autocast(inputs.features.device.type, enabled=False):
            logits = self.classifier(inputs.features.to(self.classifier.weight.dtype))
            views = len(logits) // inputs.count
            labels = inputs.labels.repeat(views)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        accuracy = (logits.argmax(-1) == labels).float().mean()
        return {"loss": loss, "accuracy": accuracy}

"""The supervised baseline: cross-entropy of a linear classifier on the backbone's features.

    L = -mean_x Σ_k y_k(x) log softmax_k(W h(x) + b),        y = (1 - α) onehot(label) + α / K

α is the label smoothing (arXiv 1512.00567). The classifier is thrown away after: the student is judged by the same probe as any other.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beamclip.config import SupervisedConfig
from beamclip.objectives.base import LossInputs, Objective


class Supervised(Objective):
    """Make the features tell the classes apart.

    Args:
        features: F, the width of the backbone's features.
        classes: K, at least 2.
        config: smoothing.
    """

    def __init__(self, features: int, classes: int, config: SupervisedConfig) -> None:
        super().__init__()
        assert classes > 1
        self.label_smoothing = config.label_smoothing
        self.classifier = nn.Linear(features, classes)

    def forward(self, seen: LossInputs) -> dict[str, Tensor]:
        """See `Objective`; all views count. Beside the loss: the accuracy on them."""
        assert seen.labels is not None
        with torch.autocast(seen.features.device.type, enabled=False):
            logits = self.classifier(seen.features.to(self.classifier.weight.dtype))
            labels = seen.labels.repeat(len(logits) // seen.count)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return {"loss": loss, "accuracy": (logits.argmax(-1) == labels).float().mean()}

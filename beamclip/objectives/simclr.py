"""SimCLR (arXiv 2002.05709; authors' code github.com/google-research/simclr).

    l(a, b) = -log exp(cos(z_a, z_b) / τ) / Σ_{c ≠ a} exp(cos(z_a, z_c) / τ)        NT-Xent
    L       = mean of l over both directions of the N pairs

c runs over the 2N views of the batches of all workers. z is the output of a head on the backbone's
features; the head is discarded after training.

The authors' code adds the means of the two directions. We take their mean, as the paper does, so
our loss is half of theirs. With SGD their learning rate therefore has to be doubled here. LARS and
Adam divide the factor out (LARS not for biases and norms).
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from beamclip.config.base import Count, Positive
from beamclip.config.objective_registry import ObjectiveSettings, Requirements, register_objective
from beamclip.objectives.base import LossContext, LossInputs, Objective, at_least_fp32
from beamclip.objectives.gather import gather_rows, workers


class SimclrSettings(ObjectiveSettings):
    """NT-Xent over two views of each image (arXiv 2002.05709)."""

    temperature: Positive = 0.5
    """Temperature τ. The authors use 0.1 on ImageNet and 0.5 on CIFAR."""
    width: Count = 128
    """Width of the head's output."""
    hidden: Count = 2048
    """Hidden width of the head. The authors use the width of the backbone's features, which is
    2,048 for a ResNet-50."""
    layers: int = Field(2, ge=2, le=3)
    """Number of linear layers of the head: 2 in SimCLR, 3 in SimCLR v2."""


def nt_xent(projected: Tensor, temperature: float) -> dict[str, Tensor]:
    """Return the NT-Xent loss of this worker's pairs among the views of all workers.

    Args:
        projected: both views of this worker's images, normalized or not, [2, B, D], with the same B
            on every worker.
        temperature: τ > 0, dimensionless.

    Returns:
        "loss", and "contrast_accuracy": the share of views, in [0, 1], for which the nearest of the
        2N - 1 other views is the other view of the same image.
    """
    projected = F.normalize(at_least_fp32(projected), dim=-1)
    # gather_rows joins the first dimension, so images come first for a moment.
    all_views = gather_rows(projected.transpose(0, 1)).transpose(0, 1)  # [2, N, D]
    count = projected.shape[1]
    total = all_views.shape[1]

    # Columns of this worker's views among all 2N: each view's own, and its partner's.
    rank, _ = workers()
    images = torch.arange(count, device=projected.device) + rank * count
    own_columns = torch.cat([images, images + total])
    partner_columns = torch.cat([images + total, images])

    cosines = projected.flatten(0, 1) @ all_views.flatten(0, 1).T
    # A view must not be compared with itself.
    logits = (cosines / temperature).scatter(1, own_columns[:, None], -torch.inf)
    accuracy = (logits.argmax(-1) == partner_columns).float().mean()
    return {"loss": F.cross_entropy(logits, partner_columns), "contrast_accuracy": accuracy}


@register_objective("simclr", settings=SimclrSettings, requires=Requirements(views=2))
class SimCLR(Objective):
    """Make the two views of an image more similar to each other than to all other views.

    Args:
        features: width F of the backbone's features.
        settings: head and temperature.
    """

    def __init__(self, features: int, settings: SimclrSettings) -> None:
        super().__init__()
        self.temperature = settings.temperature
        self.head = make_head(features, settings.hidden, settings.width, settings.layers)

    @classmethod
    def build(cls, settings: SimclrSettings, context: LossContext) -> "SimCLR":
        """Build the objective from its settings."""
        return cls(context.features, settings)

    def forward(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Return "loss" and "contrast_accuracy"; see `nt_xent`."""
        with torch.autocast(inputs.features.device.type, enabled=False):
            dtype = next(self.head.parameters()).dtype
            projected = self.head(inputs.features.to(dtype))
            assert len(projected) == 2 * inputs.count
            return nt_xent(projected.view(2, inputs.count, -1), self.temperature)


def make_head(features: int, hidden: int, width: int, layers: int) -> nn.Sequential:
    """Return SimCLR's head: (Linear, BatchNorm, ReLU) × (layers - 1), Linear, BatchNorm.

    As in the authors' code, linear layers have no bias and the last batch norm has no offset.

    Args:
        features: width F of the input.
        hidden: width of the hidden layers.
        width: width of the output.
        layers: number of linear layers, at least 2.
    """
    modules: list[nn.Module] = []
    in_features = features
    for _ in range(layers - 1):
        modules += [
            nn.Linear(in_features, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
        ]
        in_features = hidden
    norm = nn.BatchNorm1d(width)
    # torch has no batch norm with a scale but no offset, so the offset is kept at 0, its initial
    # value.
    norm.bias.requires_grad_(False)
    return nn.Sequential(*modules, nn.Linear(hidden, width, bias=False), norm)

"""SimCLR (arXiv 2002.05709; authors' code github.com/google-research/simclr).

    l(a, b) = -log exp(cos(z_a, z_b) / τ) / Σ_{c ≠ a} exp(cos(z_a, z_c) / τ)        NT-Xent
    L       = mean of l over both directions of the N pairs

c runs over the 2N views of the batches of all workers. z is the output of a head on the backbone's
features, which is discarded after training. The authors' code adds the means of the two directions;
we take the mean of both, as the paper writes it. So their learning rates are for twice our loss:
for SGD that is a factor of 2, while LARS and Adam divide it out (LARS not for biases and norms).
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from beamclip.config.base import Count, Positive
from beamclip.config.objective_registry import ObjectiveSettings, Requirements, register_objective
from beamclip.objectives.base import LossContext, LossInputs, Objective
from beamclip.objectives.gather import gather_rows, workers


class SimclrSettings(ObjectiveSettings):
    """NT-Xent over two views of each image (arXiv 2002.05709)."""

    temperature: Positive = 0.5
    """τ; the authors' is 0.1 on ImageNet and 0.5 on CIFAR."""
    width: Count = 128
    """Width of the head's output."""
    hidden: Count = 2048
    """Hidden width of the head; in the paper as wide as a ResNet-50's features."""
    layers: int = Field(2, ge=2, le=3)
    """Layers of the head: 2 in SimCLR, 3 in SimCLR v2."""


def nt_xent(projected: Tensor, temperature: float) -> dict[str, Tensor]:
    """Return the loss of one worker's pairs among the views of all workers, in fp32 or better.

    Args:
        projected: [2, B, D] of any length, both views of this worker's images; B is the same on
            every worker.
        temperature: τ > 0, dimensionless.

    Returns:
        "loss"; "contrast_accuracy", how often the nearest of the 2N - 1 other views is the other
        view of the same image.
    """
    precision = torch.float64 if projected.dtype == torch.float64 else torch.float32
    projected = F.normalize(projected.to(precision), dim=-1)
    everyone = gather_rows(projected.transpose(0, 1)).transpose(0, 1)  # [2, N, D]
    count = projected.shape[1]
    total = everyone.shape[1]
    image = torch.arange(count, device=projected.device) + workers()[0] * count
    itself = torch.cat([image, image + total])
    other = torch.cat([image + total, image])
    cosines = projected.flatten(0, 1) @ everyone.flatten(0, 1).T
    logits = (cosines / temperature).scatter(1, itself[:, None], -torch.inf)
    accuracy = (logits.argmax(-1) == other).float().mean()
    return {"loss": F.cross_entropy(logits, other), "contrast_accuracy": accuracy}


@register_objective("simclr", settings=SimclrSettings, requires=Requirements(views=2))
class SimCLR(Objective):
    """Make the two views of an image more alike than any others.

    Args:
        features: F, the width of the backbone's features.
        settings: head and temperature.
    """

    def __init__(self, features: int, settings: SimclrSettings) -> None:
        super().__init__()
        self.temperature = settings.temperature
        self.head = make_head(features, settings.hidden, settings.width, settings.layers)

    @classmethod
    def build(cls, settings: SimclrSettings, context: LossContext) -> "SimCLR":
        """Build the objective."""
        return cls(context.features, settings)

    def forward(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Return the loss and `contrast_accuracy`; see `nt_xent`."""
        with torch.autocast(inputs.features.device.type, enabled=False):
            projected = self.head(inputs.features.to(next(self.head.parameters()).dtype))
            assert len(projected) == 2 * inputs.count
            return nt_xent(projected.view(2, inputs.count, -1), self.temperature)


def make_head(features: int, hidden: int, width: int, layers: int) -> nn.Sequential:
    """Return a head F -> width of `layers` linear layers.

    Each has batch norm in place of a bias, and all but the last have ReLU. As in the authors' code,
    the last norm scales but has no offset.
    """
    parts: list[nn.Module] = []
    for inner in range(layers - 1):
        parts += [
            nn.Linear(hidden if inner else features, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
        ]
    norm = nn.BatchNorm1d(width)
    # The offset starts at 0 and stays there; torch has no norm with a scale alone.
    norm.bias.requires_grad_(False)
    return nn.Sequential(*parts, nn.Linear(hidden, width, bias=False), norm)

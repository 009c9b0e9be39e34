"""SimCLR (arXiv 2002.05709; authors' code github.com/google-research/simclr).

    l(a, b) = -log exp(cos(z_a, z_b) / τ) / Σ_{c ≠ a} exp(cos(z_a, z_c) / τ)        NT-Xent
    L       = mean of l over both directions of the N pairs; c runs over the 2N views of the batches of all workers

z is a head on the backbone's features, thrown away after training. The authors' code adds the means of the two directions where we take
the mean of both, as the paper writes it. So their learning rates are for twice our loss: for SGD that is a factor of 2, while LARS and
Adam divide it out (LARS but for biases and norms).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beamclip.config import SimclrConfig
from beamclip.objectives.base import LossInputs, Objective
from beamclip.objectives.gather import gather_rows, workers


def nt_xent(projected: Tensor, temperature: float) -> dict[str, Tensor]:
    """The loss of one worker's pairs among the views of all workers, in fp32 or better.

    Args:
        projected: [2, B, D] of any length, both views of this worker's images; B the same on every worker.
        temperature: τ > 0, dimensionless.

    Returns:
        "loss"; "contrast_accuracy", how often the nearest of the 2N - 1 other views is the other one of the same image.
    """
    precision = torch.float64 if projected.dtype == torch.float64 else torch.float32
    projected = F.normalize(projected.to(precision), dim=-1)
    everyone = gather_rows(projected.transpose(0, 1)).transpose(0, 1)  # [2, N, D]
    count, total = projected.shape[1], everyone.shape[1]
    image = torch.arange(count, device=projected.device) + workers()[0] * count
    itself, other = torch.cat([image, image + total]), torch.cat([image + total, image])
    cosines = projected.flatten(0, 1) @ everyone.flatten(0, 1).T
    logits = (cosines / temperature).scatter(1, itself[:, None], -torch.inf)
    accuracy = (logits.argmax(-1) == other).float().mean()
    return {"loss": F.cross_entropy(logits, other), "contrast_accuracy": accuracy}


class SimCLR(Objective):
    """Make the two views of an image more alike than any others.

    Args:
        features: F, the width of the backbone's features.
        config: head and temperature.
    """

    def __init__(self, features: int, config: SimclrConfig) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.head = make_head(features, config.hidden, config.width, config.layers)

    def forward(self, seen: LossInputs) -> dict[str, Tensor]:
        """See `Objective`. Beside the loss: `contrast_accuracy`, see `nt_xent`."""
        with torch.autocast(seen.features.device.type, enabled=False):
            projected = self.head(seen.features.to(next(self.head.parameters()).dtype))
            assert len(projected) == 2 * seen.count
            return nt_xent(projected.view(2, seen.count, -1), self.temperature)


def make_head(features: int, hidden: int, width: int, layers: int) -> nn.Sequential:
    """F -> width through `layers` linear layers, each with batch norm in place of a bias and all but the last with ReLU.

    As in the authors' code, the last norm scales but has no offset.
    """
    parts: list[nn.Module] = []
    for inner in range(layers - 1):
        parts += [
            nn.Linear(hidden if inner else features, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
        ]
    norm = nn.BatchNorm1d(width)
    norm.bias.requires_grad_(
        False
    )  # it starts at 0 and stays there; torch has no norm with a scale alone
    return nn.Sequential(*parts, nn.Linear(hidden, width, bias=False), norm)

"""The linear probes of the papers, so that a number can stand beside the published one with the same settings.

All of them differ from the papers' in one thing: papers augment (random crop and flip) while they train the linear layer, here features
of the canonical view are computed once. What a paper does not say, or we could not find, is marked *our reading*.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from beamclip.evaluation.linear_probe import Probe, Standardised, standardise


@dataclass(frozen=True)
class PaperProtocol:
    """SGD with momentum 0.9 from zero weights, no learning-rate warm-up."""

    lr: float
    epochs: int
    weight_decay: float
    drops: tuple[int, ...] | None = None
    """Epochs at whose start the rate is divided by 10; None for a cosine down to 0."""
    standardised: bool = False
    """Unit length first, then each feature to mean 0 and deviation 1 over the train images. Otherwise features as they are."""
    nesterov: bool = False
    batch_size: int = 256

    def rate(self, progress: float) -> float:
        """The learning rate after so many epochs, whole or not."""
        if self.drops is None:
            return 0.5 * self.lr * (1 + math.cos(math.pi * progress / self.epochs))
        return self.lr * 10.0 ** -sum(progress >= drop for drop in self.drops)


PAPER_PROTOCOLS = {
    "simreg": PaperProtocol(0.01, 40, 1e-4, drops=(15, 30), standardised=True),
    "swav": PaperProtocol(0.3, 100, 1e-6),
    "simclr": PaperProtocol(0.1, 90, 0.0, nesterov=True),
    "seed": PaperProtocol(30.0, 100, 0.0, drops=(60, 80)),
}
"""
`simreg`: SimReg (arXiv 2201.05131) and CompRess (arXiv 2010.14713): unit length, standardise, lr 0.01, 40 epochs. Our reading: batch 256,
    weight decay 1e-4, rate divided by 10 at epochs 15 and 30.
`swav`: SwAV's authors' code (arXiv 2006.09882): lr 0.3 with a cosine, weight decay 1e-6, 100 epochs, batch 256.
`simclr`: SimCLR (arXiv 2002.05709): lr 0.1 · B/256, 90 epochs. Our reading: B 256, Nesterov momentum, cosine, no weight decay; the paper
    has B 4096, too large for small data sets.
`seed`: SEED (arXiv 2101.04731), as MoCo: lr 30, 100 epochs, rate divided by 10 at 60 and 80, no weight decay. Our reading: batch 256.
"""


@torch.no_grad()
def fit_paper(features: Tensor, labels: Tensor, protocol: PaperProtocol, seed: int = 0) -> Probe:
    """Fit in fp32 on the features' device.

    Args:
        features: [N, F], finite.
        labels: int64 [N], from 0; K is the largest plus one.
        seed: of the order of images.
    """
    inputs = standardise(features, unit=True) if protocol.standardised else _as_they_are(features)
    z = F.pad(inputs(features), (0, 1), value=1.0)
    parameters = z.new_zeros(z.shape[1], int(labels.max()) + 1)
    momentum = torch.zeros_like(parameters)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(protocol.epochs):
        batches = torch.split(
            torch.randperm(len(z), generator=generator).to(z.device), protocol.batch_size
        )
        for number, batch in enumerate(batches):
            _step(
                parameters,
                momentum,
                z[batch],
                labels[batch],
                protocol,
                protocol.rate(epoch + number / len(batches)),
            )
    return Probe(
        parameters[:-1].T.contiguous(), parameters[-1].clone(), inputs.mean, inputs.std, inputs.unit
    )


def _as_they_are(features: Tensor) -> Standardised:
    width = features.shape[1]
    return Standardised(
        torch.zeros(width, device=features.device), torch.ones(width, device=features.device)
    )


def _step(
    parameters: Tensor,
    momentum: Tensor,
    z: Tensor,
    labels: Tensor,
    protocol: PaperProtocol,
    rate: float,
) -> None:
    """torch.optim.SGD's step; weight decay takes the bias too, as in the papers' code."""
    error = (z @ parameters).softmax(-1)
    error[torch.arange(len(labels), device=labels.device), labels] -= 1
    gradient = torch.addmm(
        parameters, z.T, error, beta=protocol.weight_decay, alpha=1 / len(labels)
    )
    momentum.mul_(0.9).add_(gradient)
    parameters.sub_(
        gradient.add_(momentum, alpha=0.9) if protocol.nesterov else momentum, alpha=rate
    )

"""Fit linear probes with the fixed settings of published papers, to compare with their numbers.

One thing differs from all of these papers: they augment images (random crop and flip) while they
train the linear layer. Here the features of one central view of each image are computed once.
Settings that a paper does not state, or that we could not find, are marked *our reading*.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from beamclip.evaluation.linear_probe import Probe, Standardizer, fit_standardizer

MOMENTUM = 0.9


@dataclass(frozen=True)
class PaperProtocol:
    """Settings of SGD with momentum 0.9, started from zero weights and without warm-up.

    Attributes:
        lr: learning rate at the start.
        epochs: passes over the images.
        weight_decay: weight decay of weights and bias.
        drops: the learning rate is divided by 10 at the start of each of these epochs. None: it
            follows a cosine down to 0.
        standardized: scale feature vectors to unit length, then standardize each feature over the
            train images. False: use the features as they are.
        nesterov: use Nesterov momentum.
        batch_size: images per step.
    """

    lr: float
    epochs: int
    weight_decay: float
    drops: tuple[int, ...] | None = None
    standardized: bool = False
    nesterov: bool = False
    batch_size: int = 256

    def lr_at(self, epoch: float) -> float:
        """Return the learning rate after `epoch` epochs, which may be a fraction."""
        if self.drops is None:
            return 0.5 * self.lr * (1 + math.cos(math.pi * epoch / self.epochs))
        past_drops = sum(epoch >= drop for drop in self.drops)
        return self.lr * 10.0**-past_drops


PAPER_PROTOCOLS = {
    "simreg": PaperProtocol(0.01, 40, 1e-4, drops=(15, 30), standardized=True),
    "swav": PaperProtocol(0.3, 100, 1e-6),
    "simclr": PaperProtocol(0.1, 90, 0.0, nesterov=True),
    "seed": PaperProtocol(30.0, 100, 0.0, drops=(60, 80)),
}
"""The protocols by their names in `probe.protocol`.

- `simreg`: SimReg (arXiv 2201.05131) and CompRess (arXiv 2010.14713). Features are scaled to unit
  length and standardized; lr 0.01, 40 epochs. Our reading: batch 256, weight decay 1e-4, lr divided
  by 10 at epochs 15 and 30.
- `swav`: the code of SwAV's authors (arXiv 2006.09882). lr 0.3 with a cosine, weight decay 1e-6,
  100 epochs. Our reading: batch 256 in one process.
- `simclr`: SimCLR (arXiv 2002.05709). lr 0.1 · B/256, 90 epochs. Our reading: B = 256, Nesterov
  momentum, cosine, no weight decay. The paper's B = 4,096 is too large for small data sets.
- `seed`: SEED (arXiv 2101.04731), which follows MoCo. lr 30, 100 epochs, lr divided by 10 at epochs
  60 and 80, no weight decay. Our reading: batch 256.
"""


@torch.no_grad()
def fit_paper(features: Tensor, labels: Tensor, protocol: PaperProtocol, seed: int = 0) -> Probe:
    """Fit a probe with a paper's settings, in fp32 on the features' device.

    Args:
        features: [N, F], finite.
        labels: int64 [N], from 0; K is the largest plus one.
        protocol: the paper's settings.
        seed: seed of the order of images.
    """
    if protocol.standardized:
        standardizer = fit_standardizer(features, unit=True)
    else:
        standardizer = _identity(features)
    # A column of ones makes the bias the last row of the parameters.
    z = F.pad(standardizer(features), (0, 1), value=1.0)
    parameters = z.new_zeros(z.shape[1], int(labels.max()) + 1)
    momentum = torch.zeros_like(parameters)
    # Images are shuffled on the CPU, so that a seed gives the same order on every device.
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(protocol.epochs):
        order = torch.randperm(len(z), generator=generator).to(z.device)
        batches = torch.split(order, protocol.batch_size)
        for index, batch in enumerate(batches):
            lr = protocol.lr_at(epoch + index / len(batches))
            gradient = _gradient(parameters, z[batch], labels[batch], protocol.weight_decay)
            # The update of torch.optim.SGD.
            momentum.mul_(MOMENTUM).add_(gradient)
            step = gradient.add_(momentum, alpha=MOMENTUM) if protocol.nesterov else momentum
            parameters.sub_(step, alpha=lr)
    weight = parameters[:-1].T.contiguous()
    bias = parameters[-1].clone()
    return Probe(weight, bias, standardizer.mean, standardizer.std, standardizer.unit)


def _identity(features: Tensor) -> Standardizer:
    """Return a standardizer that leaves features as they are."""
    width = features.shape[1]
    mean = torch.zeros(width, device=features.device)
    std = torch.ones(width, device=features.device)
    return Standardizer(mean, std)


def _gradient(parameters: Tensor, z: Tensor, labels: Tensor, weight_decay: float) -> Tensor:
    """Return the gradient of the mean cross-entropy over a batch, with weight decay.

    As in the papers' code, the bias is decayed too.

    Args:
        parameters: weights, and the bias as the last row, [F + 1, K].
        z: features and a column of ones, [B, F + 1].
        labels: int64 [B].
        weight_decay: this factor times the parameters is added to the gradient.

    Returns:
        [F + 1, K].
    """
    # The gradient of the cross-entropy with respect to the logits is softmax − one-hot.
    error = (z @ parameters).softmax(-1)
    error[torch.arange(len(labels), device=labels.device), labels] -= 1
    return torch.addmm(parameters, z.T, error, beta=weight_decay, alpha=1 / len(labels))

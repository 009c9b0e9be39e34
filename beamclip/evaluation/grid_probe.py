"""Linear probes of many settings at once: one batched matrix product serves all cells.

    min_{W, b}  mean_i CE(W z_i + b, y_i) + λ/2 ||W||²        for every cell (learning rate, λ, normalisation)

Mini-batch SGD with Nesterov momentum and a cosine schedule, as DINOv2 (arXiv 2304.07193) trains a grid of heads together over one pass of
frozen features; ours adds what makes a few passes enough. Features are turned into the eigenbasis of their covariance, where a step
can be divided, direction by direction, by an estimate of the curvature: E[p_c(1 − p_c) z_j²] is at most E[p_c z_j²], which is about π_c s_j
with π_c the share of class c and s_j the eigenvalue. A rotation changes neither the loss nor ||W||, so the optimum is the one of
scikit-learn's logistic regression with C = 1 / (λN).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from beamclip.evaluation.linear_probe import Probe, Standardised, standardise

MOMENTUM, DAMPING = 0.9, 1e-3
MIN_STEPS = 50
"""However few images there are."""
SCORES = 2**24
"""Logits held at once where cells are scored: 64 MiB."""


@dataclass(frozen=True)
class GridCell:
    """One setting of the probe."""

    lr: float
    weight_decay: float


@dataclass(frozen=True)
class FittedGrid:
    """All cells after training."""

    inputs: tuple[Standardised, ...]
    """G normalisations."""
    weight: Tensor
    """[G, F, C, K], over standardised features; C cells, K classes."""
    bias: Tensor
    """[G, C, K]."""

    def top1(self, features: Tensor, labels: Tensor) -> Tensor:
        """Accuracy of every cell in per cent, fp64 [G, C]."""
        groups, width, cells, classes = self.weight.shape
        hits = torch.zeros(groups, cells, dtype=torch.float64, device=labels.device)
        rows = max(1, SCORES // (cells * classes))
        for x, y in zip(torch.split(features, rows), torch.split(labels, rows), strict=True):
            for g, prepared in enumerate(self.inputs):
                logits = prepared(x) @ self.weight[g].view(width, -1) + self.bias[g].view(-1)
                hits[g] += (logits.view(len(x), cells, classes).argmax(-1) == y[:, None]).sum(0)
        return 100 * hits / len(labels)

    def probe(self, group: int, cell: int) -> Probe:
        """One cell as a probe."""
        prepared = self.inputs[group]
        weight = self.weight[group, :, cell].T.contiguous()
        return Probe(
            weight, self.bias[group, cell].clone(), prepared.mean, prepared.std, prepared.unit
        )


@torch.no_grad()
def fit_grid(
    features: Tensor,
    labels: Tensor,
    cells: Sequence[GridCell],
    units: Sequence[bool],
    epochs: int,
    batch_size: int,
    seed: int = 0,
) -> FittedGrid:
    """Train every cell with every normalisation, in fp32 on the features' device.

    Args:
        features: [N, F], finite.
        labels: int64 [N], from 0; K is the largest plus one, at least 2.
        cells: C settings.
        units: G normalisations: whether features are brought to unit length before they are standardised.
        epochs: passes over the images; more where that would be fewer than `MIN_STEPS` steps.
        batch_size: images a step.
        seed: of the order of images.
    """
    inputs = tuple(standardise(features, unit) for unit in units)
    z, scale, basis = _rotated(torch.stack([prepared(features) for prepared in inputs]))
    counts = labels.bincount()
    prior = (counts + 1) / (len(labels) + len(counts))
    decay = z.new_tensor([cell.weight_decay for cell in cells]).expand(z.shape[2], -1).clone()
    decay[-1] = 0  # the bias
    curvature = scale[:, :, None, None] * prior + decay[:, :, None] + DAMPING / len(counts)
    rates = z.new_tensor([cell.lr for cell in cells])[:, None] * (1 - MOMENTUM) / curvature
    solution = _descend(z, labels, decay[:, :, None], rates, epochs, batch_size, seed)
    weight = torch.einsum("gfr,grck->gfck", basis, solution[:, :-1])
    return FittedGrid(inputs, weight.contiguous(), solution[:, -1])


def _rotated(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[G, N, F] -> in the eigenbasis with a column of ones [G, N, R + 1], mean squares [G, R + 1], basis [G, F, R]; R = min(N, F)."""
    rank = min(z.shape[1:])
    scale, basis = torch.linalg.eigh(z.transpose(1, 2) @ z / z.shape[1])
    scale, basis = scale[:, -rank:].clamp(min=0), basis[:, :, -rank:]
    return F.pad(z @ basis, (0, 1), value=1.0), F.pad(scale, (0, 1), value=1.0), basis


def _descend(
    z: Tensor, labels: Tensor, decay: Tensor, rates: Tensor, epochs: int, batch_size: int, seed: int
) -> Tensor:
    """Parameters [G, R + 1, C, K] after training. decay: [R + 1, C, 1]; rates: [G, R + 1, C, K]."""
    parameters, momentum = torch.zeros_like(rates), torch.zeros_like(rates)
    per_epoch = math.ceil(len(labels) / batch_size)
    epochs = max(epochs, math.ceil(MIN_STEPS / per_epoch))
    generator, step = torch.Generator().manual_seed(seed), 0
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=generator).to(z.device)
        for batch in torch.split(order, batch_size):
            pull = 0.5 * (1 + math.cos(math.pi * step / (epochs * per_epoch)))
            gradient = _gradient(parameters, z[:, batch], labels[batch]).addcmul_(parameters, decay)
            momentum.mul_(MOMENTUM).add_(gradient)
            parameters.addcmul_(gradient.add_(momentum, alpha=MOMENTUM), rates, value=-pull)
            step += 1
    return parameters


def _gradient(parameters: Tensor, z: Tensor, labels: Tensor) -> Tensor:
    """(softmax − one-hot)ᵀ z / B for every cell, [G, R + 1, C, K]."""
    groups, width, cells, classes = parameters.shape
    error = (
        torch.bmm(z, parameters.view(groups, width, -1))
        .view(groups, -1, cells, classes)
        .softmax(-1)
    )
    error[:, torch.arange(len(labels), device=labels.device), :, labels] -= 1
    return (
        torch.bmm(z.transpose(1, 2), error.view(groups, len(labels), -1))
        .div_(len(labels))
        .view_as(parameters)
    )

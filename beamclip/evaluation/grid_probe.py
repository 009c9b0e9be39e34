"""Linear probes of many settings at once: one batched matrix product trains all of them.

    min_{W, b}  mean_i CE(W z_i + b, y_i) + λ/2 ||W||²

for every setting (learning rate, λ) and every standardization of the features.

The probes are trained by mini-batch SGD with Nesterov momentum and a cosine schedule, as DINOv2
(arXiv 2304.07193) trains a grid of heads together in one pass over frozen features. A
preconditioner makes a few passes enough: features are rotated into the eigenbasis of their
covariance, where a step can be divided, direction by direction, by an estimate of the curvature.
E[p_c(1 − p_c) z_j²] is at most E[p_c z_j²], which is about π_c s_j for the share π_c of class c
and the eigenvalue s_j. A rotation changes neither the loss nor ||W||, so the optimum is that of
scikit-learn's logistic regression with C = 1 / (λN).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from beamclip.evaluation.linear_probe import Probe, Standardizer, fit_standardizer

MOMENTUM = 0.9
DAMPING = 1e-3
MIN_STEPS = 50
"""Fewest steps of training, for small sets of images."""
SCORES = 2**24
"""Logits that are held at once when probes are scored: 64 MiB."""


@dataclass(frozen=True)
class ProbeSetting:
    """Hyperparameters of one probe of the grid.

    Attributes:
        lr: peak step as a share of an estimated Newton step; below 1 it is stable.
        weight_decay: λ.
    """

    lr: float
    weight_decay: float


@dataclass(frozen=True)
class SgdSchedule:
    """Length and order of training, the same for all probes of a grid.

    Attributes:
        epochs: passes over the images; more if that would be fewer than `MIN_STEPS` steps.
        batch_size: images per step.
        seed: seed of the order of images.
    """

    epochs: int
    batch_size: int
    seed: int = 0


@dataclass(frozen=True)
class FittedGrid:
    """Trained probes of G standardizations, C settings and K classes.

    Attributes:
        standardizers: the G standardizations.
        weight: weights for standardized features, [G, F, C, K].
        bias: [G, C, K].
    """

    standardizers: tuple[Standardizer, ...]
    weight: Tensor
    bias: Tensor

    def top1(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the accuracy of every probe in percent, fp64 [G, C].

        Args:
            features: [N, F].
            labels: int64 [N].
        """
        groups, width, settings, classes = self.weight.shape
        hits = torch.zeros(groups, settings, dtype=torch.float64, device=labels.device)
        rows = max(1, SCORES // (settings * classes))
        for x, y in zip(torch.split(features, rows), torch.split(labels, rows), strict=True):
            for group, standardizer in enumerate(self.standardizers):
                weight = self.weight[group].view(width, -1)
                logits = standardizer(x) @ weight + self.bias[group].view(-1)
                predicted = logits.view(len(x), settings, classes).argmax(-1)
                hits[group] += (predicted == y[:, None]).sum(0)
        return 100 * hits / len(labels)

    def probe(self, group: int, setting: int) -> Probe:
        """Return one probe, by the indices of its standardization and its setting."""
        standardizer = self.standardizers[group]
        weight = self.weight[group, :, setting].T.contiguous()
        bias = self.bias[group, setting].clone()
        return Probe(weight, bias, standardizer.mean, standardizer.std, standardizer.unit)


@torch.no_grad()
def fit_grid(
    features: Tensor,
    labels: Tensor,
    settings: Sequence[ProbeSetting],
    unit_lengths: Sequence[bool],
    schedule: SgdSchedule,
) -> FittedGrid:
    """Train a probe for every setting and standardization, in fp32 on the features' device.

    Args:
        features: [N, F], finite.
        labels: int64 [N], from 0; K is the largest plus one, at least 2.
        settings: C settings.
        unit_lengths: G standardizations: True brings feature vectors to unit length first.
        schedule: epochs, batch size and seed.
    """
    standardizers = tuple(fit_standardizer(features, unit) for unit in unit_lengths)
    inputs = torch.stack([standardizer(features) for standardizer in standardizers])
    z, eigenvalues, basis = _rotate(inputs)
    class_counts = labels.bincount()
    prior = (class_counts + 1) / (len(labels) + len(class_counts))
    weight_decays = z.new_tensor([setting.weight_decay for setting in settings])
    decay = weight_decays.expand(z.shape[2], -1).clone()
    decay[-1] = 0  # the bias is not decayed
    damping = DAMPING / len(class_counts)
    curvature = eigenvalues[:, :, None, None] * prior + decay[:, :, None] + damping
    lrs = z.new_tensor([setting.lr for setting in settings])
    rates = lrs[:, None] * (1 - MOMENTUM) / curvature
    parameters = _minimize(z, labels, decay[:, :, None], rates, schedule)
    weight = torch.einsum("gfr,grck->gfck", basis, parameters[:, :-1])
    return FittedGrid(standardizers, weight.contiguous(), parameters[:, -1])


def _rotate(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate inputs [G, N, F] into the eigenbasis of their covariance, of rank R = min(N, F).

    Returns:
        The rotated inputs with a column of ones for the bias, [G, N, R + 1]; the mean square of
        each column, [G, R + 1]; the basis, [G, F, R].
    """
    rank = min(z.shape[1:])
    eigenvalues, basis = torch.linalg.eigh(z.transpose(1, 2) @ z / z.shape[1])
    eigenvalues = eigenvalues[:, -rank:].clamp(min=0)
    basis = basis[:, :, -rank:]
    with_ones = F.pad(z @ basis, (0, 1), value=1.0)
    return with_ones, F.pad(eigenvalues, (0, 1), value=1.0), basis


def _minimize(
    z: Tensor, labels: Tensor, decay: Tensor, rates: Tensor, schedule: SgdSchedule
) -> Tensor:
    """Train from zero and return the parameters, [G, R + 1, C, K].

    Args:
        z: rotated inputs, [G, N, R + 1].
        labels: int64 [N].
        decay: weight decay of each parameter, [R + 1, C, 1].
        rates: peak learning rate of each parameter, [G, R + 1, C, K].
        schedule: epochs, batch size and seed.
    """
    parameters = torch.zeros_like(rates)
    momentum = torch.zeros_like(rates)
    steps_per_epoch = math.ceil(len(labels) / schedule.batch_size)
    epochs = max(schedule.epochs, math.ceil(MIN_STEPS / steps_per_epoch))
    generator = torch.Generator().manual_seed(schedule.seed)
    step = 0
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=generator).to(z.device)
        for batch in torch.split(order, schedule.batch_size):
            cosine = 0.5 * (1 + math.cos(math.pi * step / (epochs * steps_per_epoch)))
            gradient = _gradient(parameters, z[:, batch], labels[batch]).addcmul_(parameters, decay)
            momentum.mul_(MOMENTUM).add_(gradient)
            nesterov = gradient.add_(momentum, alpha=MOMENTUM)
            parameters.addcmul_(nesterov, rates, value=-cosine)
            step += 1
    return parameters


def _gradient(parameters: Tensor, z: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient (softmax − one-hot)ᵀ z / B of every probe, [G, R + 1, C, K].

    Args:
        parameters: [G, R + 1, C, K].
        z: rotated inputs of a batch, [G, B, R + 1].
        labels: int64 [B].
    """
    groups, width, settings, classes = parameters.shape
    logits = torch.bmm(z, parameters.view(groups, width, -1))
    error = logits.view(groups, -1, settings, classes).softmax(-1)
    error[:, torch.arange(len(labels), device=labels.device), :, labels] -= 1
    gradient = torch.bmm(z.transpose(1, 2), error.view(groups, len(labels), -1))
    return gradient.div_(len(labels)).view_as(parameters)

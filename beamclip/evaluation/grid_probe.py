"""Train linear probes with many settings at once, as batched matrix products.

    min_{W, b}  mean_i CE(W z_i + b, y_i) + λ/2 ||W||²

is solved for every setting (learning rate, λ) and every standardization of the features, by
mini-batch SGD with Nesterov momentum and a cosine schedule. DINOv2 (arXiv 2304.07193) also trains a
grid of linear heads together in one pass over frozen features.

A preconditioner makes a few epochs enough. Features are rotated into the eigenbasis of their
covariance, and the step of each parameter is divided by an estimate of the loss's curvature. For
the weight of class c and direction j the curvature is

    E[p_c (1 − p_c) z_j²]  ≤  E[p_c z_j²]  ≈  π_c s_j

with the share π_c of class c among the images and the eigenvalue s_j of the covariance.

The rotation changes neither the loss nor ||W||, so scikit-learn's `LogisticRegression` with
C = 1 / (λN) has the same optimum.
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
"""Added to the eigenvalues, so that directions of almost no variance get steps of finite size."""
MIN_STEPS = 50
"""Smallest number of training steps. A small set of images is passed over more often."""
SCORES = 2**24
"""Logits held in memory at once when the probes are scored: 64 MiB in fp32."""


@dataclass(frozen=True)
class ProbeSetting:
    """Hyperparameters of one probe of the grid.

    Attributes:
        lr: peak learning rate, as a share of an estimated Newton step. Values below 1 are stable.
        weight_decay: λ.
    """

    lr: float
    weight_decay: float


@dataclass(frozen=True)
class SgdSchedule:
    """Length and order of training, the same for all probes of a grid.

    Attributes:
        epochs: passes over the images. There are more if this is fewer than `MIN_STEPS` steps.
        batch_size: images per step.
        seed: seed of the order of images.
    """

    epochs: int
    batch_size: int
    seed: int = 0


@dataclass(frozen=True)
class FittedGrid:
    """Trained probes for G standardizations, C settings and K classes.

    Attributes:
        standardizers: the G standardizations.
        weight: weights for standardized features, fp32 [G, F, C, K].
        bias: fp32 [G, C, K].
    """

    standardizers: tuple[Standardizer, ...]
    weight: Tensor
    bias: Tensor

    def top1(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the top-1 accuracy of every probe in percent, fp64 [G, C].

        Args:
            features: [N, F].
            labels: int64 [N].
        """
        groups, width, settings, classes = self.weight.shape
        hits = torch.zeros(groups, settings, dtype=torch.float64, device=labels.device)
        rows = max(1, SCORES // (settings * classes))
        for x, y in zip(torch.split(features, rows), torch.split(labels, rows), strict=True):
            for group, standardizer in enumerate(self.standardizers):
                # One matrix product for all settings.
                weight = self.weight[group].view(width, -1)
                logits = standardizer(x) @ weight + self.bias[group].view(-1)
                predicted = logits.view(len(x), settings, classes).argmax(-1)
                hits[group] += (predicted == y[:, None]).sum(0)
        return 100 * hits / len(labels)

    def probe(self, group: int, setting: int) -> Probe:
        """Return the probe of standardization number `group` and setting number `setting`."""
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
        settings: the C settings.
        unit_lengths: one flag for each of the G standardizations: True scales feature vectors to
            unit length first.
        schedule: epochs, batch size and seed.
    """
    standardizers = tuple(fit_standardizer(features, unit) for unit in unit_lengths)
    inputs = torch.stack([standardizer(features) for standardizer in standardizers])
    z, eigenvalues, basis = _rotate(inputs)

    # Weight decay of each parameter, [R + 1, C, 1]. As in scikit-learn, the bias has none.
    weight_decays = z.new_tensor([setting.weight_decay for setting in settings])
    decay = weight_decays.expand(z.shape[2], -1).clone()
    decay[-1] = 0
    decay = decay[:, :, None]

    # Estimated curvature along each parameter, [G, R + 1, C, K]; see the module's docstring.
    # Class shares are smoothed (Laplace), so that a class without images has curvature too.
    class_counts = labels.bincount()
    class_shares = (class_counts + 1) / (len(labels) + len(class_counts))
    damping = DAMPING / len(class_counts)
    curvature = eigenvalues[:, :, None, None] * class_shares + decay + damping

    # Momentum multiplies the length of a step by 1 / (1 - MOMENTUM) in the long run.
    lrs = z.new_tensor([setting.lr for setting in settings])
    rates = lrs[:, None] * (1 - MOMENTUM) / curvature
    parameters = _minimize(z, labels, decay, rates, schedule)

    # Rotate the weights back, so that they apply to standardized features.
    weight = torch.einsum("gfr,grck->gfck", basis, parameters[:, :-1])
    return FittedGrid(standardizers, weight.contiguous(), parameters[:, -1])


def _rotate(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate standardized inputs [G, N, F] into the eigenbasis of their covariance.

    Returns:
        The rotated inputs with a column of ones for the bias, [G, N, R + 1], where R = min(N, F);
        the mean square of each of these columns, [G, R + 1]; the basis, [G, F, R].
    """
    # With fewer images than features, all other eigenvalues are 0 and nothing is lost without them.
    rank = min(z.shape[1:])
    # Standardized inputs have mean 0, so this is the covariance.
    eigenvalues, basis = torch.linalg.eigh(z.transpose(1, 2) @ z / z.shape[1])
    # eigh sorts in ascending order, and rounding may make the smallest eigenvalues negative.
    eigenvalues = eigenvalues[:, -rank:].clamp(min=0)
    basis = basis[:, :, -rank:]
    with_ones = F.pad(z @ basis, (0, 1), value=1.0)
    return with_ones, F.pad(eigenvalues, (0, 1), value=1.0), basis


def _minimize(
    z: Tensor, labels: Tensor, decay: Tensor, rates: Tensor, schedule: SgdSchedule
) -> Tensor:
    """Train all probes from zero and return their parameters, [G, R + 1, C, K].

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
    # Images are shuffled on the CPU, so that a seed gives the same order on every device.
    generator = torch.Generator().manual_seed(schedule.seed)
    step = 0
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=generator).to(z.device)
        for batch in torch.split(order, schedule.batch_size):
            cosine = 0.5 * (1 + math.cos(math.pi * step / (epochs * steps_per_epoch)))
            # The update of torch.optim.SGD with nesterov=True, at a rate for each parameter.
            gradient = _gradient(parameters, z[:, batch], labels[batch])
            gradient.addcmul_(parameters, decay)
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

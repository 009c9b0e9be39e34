"""Fit the linear probe with L-BFGS: multinomial logistic regression on frozen features.

    min_{W, b}  C Σ_i CE(W z_i + b, y_i) + ½ ||W||²,        z = (x − mean) / std

This is CLIP's protocol (arXiv 2103.00020, A.3) with the objective of scikit-learn's
`LogisticRegression`. C is chosen on held-out data.

Unlike CLIP, features are standardized with the mean and standard deviation of the train images, as
in CompRess (arXiv 2010.14713) and SimReg (arXiv 2201.05131). These papers also scale each feature
vector to unit length first. That is left out here, so that the probe is linear in the backbone's
features.

Also in this module, since all linear probes share them: `Standardizer`, and `Probe` with its file
format.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from beamclip.config import UserError
from beamclip.evaluation.features import check_finite
from beamclip.students import write_tensors

ROWS = 2**16
"""Images whose logits are held in memory at once: 250 MiB in fp32 for 1,000 classes."""

_TENSORS = ("weight", "bias", "mean", "std")


@dataclass(frozen=True)
class Standardizer:
    """Affine map of features to mean 0 and standard deviation 1 over the train images.

    Attributes:
        mean: fp32 [F].
        std: fp32 [F], 1 for a constant feature.
        unit: scale each feature vector to unit length first.
    """

    mean: Tensor
    std: Tensor
    unit: bool = False

    def __call__(self, features: Tensor) -> Tensor:
        """Standardize features [N, F] of any floating-point type to fp32 [N, F]."""
        return (_as_float(features, self.unit) - self.mean) / self.std


def fit_standardizer(features: Tensor, unit: bool = False) -> Standardizer:
    """Compute the mean and (biased) standard deviation of features.

    Args:
        features: [N, F].
        unit: scale each feature vector to unit length first.
    """
    std, mean = torch.std_mean(_as_float(features, unit), dim=0, correction=0)
    # The standard deviation of a constant feature is 0 or a rounding error of fp32. Dividing by it
    # would turn noise into a large feature.
    is_constant = std <= 1e-6 * mean.abs().clamp(min=1e-12)
    return Standardizer(mean, torch.where(is_constant, 1.0, std), unit)


def _as_float(features: Tensor, unit: bool) -> Tensor:
    return F.normalize(features.float(), dim=-1) if unit else features.float()


def check_fittable(features: Tensor, labels: Tensor) -> None:
    """Raise UserError if a feature is not finite or all labels are the same."""
    check_finite(features, "the student's features")
    if bool((labels == labels[0]).all()):
        raise UserError(
            f"a linear probe needs two classes, but all {len(labels)} train labels are "
            f"{int(labels[0])}; check the data"
        )


@dataclass(frozen=True)
class Probe:
    """A fitted linear probe with its standardization; all tensors are fp32.

    Attributes:
        weight: [K, F], for standardized features.
        bias: [K].
        mean: [F], see `Standardizer`.
        std: [F], see `Standardizer`.
        unit: whether feature vectors are scaled to unit length first.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    unit: bool = False

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits [N, K] of features [N, F]."""
        standardize = Standardizer(self.mean, self.std, self.unit)
        return F.linear(standardize(features), self.weight, self.bias)

    def predict(self, features: Tensor) -> Tensor:
        """Return the predicted classes, int64 [N], of features [N, F]."""
        return self.logits(features).argmax(-1)


def save_probe(probe: Probe, path: Path) -> None:
    """Write a probe as safetensors; `unit` is in the metadata.

    Raises:
        UserError: the file can't be written.
    """
    tensors = {name: getattr(probe, name) for name in _TENSORS}
    write_tensors(path, tensors, {"probe_format": "beamclip-probe-1", "unit": str(int(probe.unit))})


def load_probe(path: Path) -> Probe:
    """Read a probe onto the CPU.

    Raises:
        UserError: the file is missing, damaged or not a probe written by `save_probe`.
    """
    try:
        with safe_open(path, "pt") as file:
            # Older versions had no `unit` and never scaled to unit length.
            unit = (file.metadata() or {}).get("unit") == "1"
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} can't be read as a linear probe ({error}); check the path"
        ) from None
    return Probe(**tensors, unit=unit)


@torch.no_grad()
def fit_probe(
    features: Tensor,
    labels: Tensor,
    inverse_l2: float,
    max_iterations: int,
    init: Probe | None = None,
) -> Probe:
    """Fit a linear probe in fp32, on the features' device.

    Args:
        features: [N, F], finite.
        labels: int64 [N], from 0; K is the largest plus one.
        inverse_l2: C > 0.
        max_iterations: largest number of L-BFGS iterations. It stops earlier if no entry of the
            gradient is above 1e-6.
        init: probe with the same F and K to start from; default zeros. The problem is convex, so
            the start only changes the number of iterations.

    Raises:
        UserError: a feature is not finite, or all labels are the same.
    """
    check_fittable(features, labels)
    standardizer = fit_standardizer(features)
    inputs = standardizer(features)
    if init is None:
        start = inputs.new_zeros(int(labels.max()) + 1, inputs.shape[1] + 1)
    else:
        start = torch.cat([init.weight, init.bias[:, None]], dim=1)
    solution = _minimize(start, inputs, labels, inverse_l2, max_iterations)
    weight = solution[:, :-1].contiguous()
    bias = solution[:, -1].contiguous()
    return Probe(weight, bias, standardizer.mean, standardizer.std)


def _minimize(
    start: Tensor, inputs: Tensor, labels: Tensor, inverse_l2: float, max_iterations: int
) -> Tensor:
    """Return the parameters [K, F + 1] that minimize the loss of `loss_and_gradient`."""
    parameters = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=max_iterations,
        history_size=10,
        # Stop by the gradient alone: a small change of the loss doesn't mean that the optimum is
        # near.
        tolerance_grad=1e-6,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        # Not by autograd, which would keep the logits of all images in memory.
        loss, gradient = loss_and_gradient(parameters.detach(), inputs, labels, inverse_l2)
        parameters.grad = gradient
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return parameters.detach()


def loss_and_gradient(
    parameters: Tensor, inputs: Tensor, labels: Tensor, inverse_l2: float
) -> tuple[Tensor, Tensor]:
    """Return the objective divided by C·N, and its gradient.

    The gradient is (softmax − one-hot)ᵀ [z, 1] / N, plus W / (C·N) for the weight. Because of the
    division, one gradient tolerance suits all C and N.

    Args:
        parameters: weight and bias side by side, [K, F + 1].
        inputs: standardized features, [N, F].
        labels: int64 [N].
        inverse_l2: C > 0.

    Returns:
        The loss, a scalar, and its gradient, [K, F + 1].
    """
    weight = parameters[:, :-1]
    bias = parameters[:, -1]
    decay = 1 / (inverse_l2 * len(inputs))
    loss = 0.5 * decay * weight.square().sum()
    gradient = torch.cat([decay * weight, torch.zeros_like(bias)[:, None]], dim=1)
    for z, y in zip(torch.split(inputs, ROWS), torch.split(labels, ROWS), strict=True):
        log_p = F.linear(z, weight, bias).log_softmax(-1)
        loss += F.nll_loss(log_p, y, reduction="sum") / len(inputs)
        error = (log_p.exp() - F.one_hot(y, len(bias))) / len(inputs)
        gradient[:, :-1] += error.T @ z
        gradient[:, -1] += error.sum(0)
    return loss, gradient


def sweep_inverse_l2(
    features: Tensor, labels: Tensor, grid: Sequence[float], max_iterations: int
) -> dict[float, Probe]:
    """Fit one probe per C, in ascending order of C, each starting from the previous solution.

    Args:
        features: [N, F], finite.
        labels: int64 [N], from 0.
        grid: values of C, in any order.
        max_iterations: largest number of L-BFGS iterations per C.

    Returns:
        The probes by C, in ascending order of C.

    Raises:
        UserError: a feature is not finite, or all labels are the same.
    """
    probes: dict[float, Probe] = {}
    # The solutions of neighboring values of C are similar, so few iterations lead to the next one.
    previous = None
    for inverse_l2 in sorted(set(grid)):
        probe = fit_probe(features, labels, inverse_l2, max_iterations, init=previous)
        probes[inverse_l2] = probe
        previous = probe
    return probes

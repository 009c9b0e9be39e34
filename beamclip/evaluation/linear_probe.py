"""Linear probe: multinomial logistic regression on frozen features, fitted with L-BFGS.

    min_{W, b}  C Σ_i CE(W z_i + b, y_i) + ½ ||W||²,        z = (x − mean) / std

CLIP's protocol (arXiv 2103.00020, A.3): L-BFGS, C chosen on held-out data. The objective is scikit-learn's. Features are
standardised with the train images' mean and standard deviation, as CompRess (arXiv 2010.14713) and SimReg (arXiv 2201.05131) do;
they L2-normalise each feature first, which is left out here, so that the probe stays linear in the backbone's features.
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

# What a linear probe does to features before it looks at them.


@dataclass(frozen=True)
class Standardised:
    """Features, at unit length where `unit`, minus `mean` over `std`, both [F] and of the train images."""

    mean: Tensor
    std: Tensor
    unit: bool = False

    def __call__(self, features: Tensor) -> Tensor:
        """[N, F] -> fp32 [N, F]."""
        features = F.normalize(features.float(), dim=-1) if self.unit else features.float()
        return (features - self.mean) / self.std


def standardise(features: Tensor, unit: bool = False) -> Standardised:
    """Fit mean and standard deviation to [N, F].

    A constant feature has no scale: its standard deviation is rounding error and must not be divided by.
    """
    std, mean = torch.std_mean(
        F.normalize(features.float(), dim=-1) if unit else features.float(), dim=0, correction=0
    )
    constant = std <= 1e-6 * mean.abs().clamp(min=1e-12)
    return Standardised(mean, torch.where(constant, 1.0, std), unit)


def check_fittable(features: Tensor, labels: Tensor) -> None:
    """See that a probe can be fitted.

    Raises:
        UserError: a feature is not finite, or all labels are the same.
    """
    check_finite(features, "the student's features")
    if bool((labels == labels[0]).all()):
        raise UserError(
            f"a linear probe needs two classes, but all {len(labels)} train labels are {int(labels[0])}; look at the data"
        )


# A fitted linear probe, and its file.


_TENSORS = ("weight", "bias", "mean", "std")


@dataclass(frozen=True)
class Probe:
    """A fitted probe; fp32 tensors."""

    weight: Tensor
    """[K, F], over standardised features."""
    bias: Tensor
    """[K]."""
    mean: Tensor
    """[F]."""
    std: Tensor
    """[F], 1 where a feature is constant."""
    unit: bool = False
    """Features are brought to unit length first."""

    def logits(self, features: Tensor) -> Tensor:
        """[N, F] -> [N, K]."""
        return F.linear(
            Standardised(self.mean, self.std, self.unit)(features), self.weight, self.bias
        )

    def predict(self, features: Tensor) -> Tensor:
        """[N, F] -> classes, int64 [N]."""
        return self.logits(features).argmax(-1)


def save_probe(probe: Probe, path: Path) -> None:
    """Write weight, bias, mean and std as safetensors, and in the metadata whether features are brought to unit length.

    Raises:
        UserError: the file can't be written.
    """
    tensors = {name: getattr(probe, name) for name in _TENSORS}
    write_tensors(path, tensors, {"probe_format": "beamclip-probe-1", "unit": str(int(probe.unit))})


def load_probe(path: Path) -> Probe:
    """Read what `save_probe` wrote, onto the CPU.

    Raises:
        UserError: the file is missing, damaged or not a probe of ours.
    """
    try:
        with safe_open(path, "pt") as file:
            unit = (file.metadata() or {}).get("unit") == "1"
            return Probe(**{name: file.get_tensor(name) for name in _TENSORS}, unit=unit)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} can't be read as a linear probe ({error}); check the path"
        ) from None


ROWS = 2**16
"""Images whose logits are held at once: 262 MiB for 1000 classes."""


@torch.no_grad()
def fit_probe(
    features: Tensor,
    labels: Tensor,
    inverse_l2: float,
    max_iterations: int,
    init: Probe | None = None,
) -> Probe:
    """Fit in fp32, on the features' device.

    Args:
        features: [N, F], finite.
        labels: int64 [N], from 0; K is the largest plus one.
        inverse_l2: C > 0.
        max_iterations: of L-BFGS; it stops before where the gradient vanishes.
        init: start from this probe of the same features; default zero. The optimum is the same.

    Raises:
        UserError: a feature is not finite, or all labels are the same.
    """
    check_fittable(features, labels)
    prepared = standardise(features)
    inputs = prepared(features)
    start = inputs.new_zeros(int(labels.max()) + 1, inputs.shape[1] + 1)
    if init is not None:
        start = torch.cat([init.weight, init.bias[:, None]], dim=1)
    solution = _minimise(start, inputs, labels, inverse_l2, max_iterations)
    return Probe(
        solution[:, :-1].contiguous(), solution[:, -1].contiguous(), prepared.mean, prepared.std
    )


def _minimise(
    start: Tensor, inputs: Tensor, labels: Tensor, inverse_l2: float, max_iterations: int
) -> Tensor:
    parameters = start.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [parameters],
        max_iter=max_iterations,
        history_size=10,
        tolerance_grad=1e-6,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        loss, parameters.grad = loss_and_gradient(parameters.detach(), inputs, labels, inverse_l2)
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    return parameters.detach()


def loss_and_gradient(
    parameters: Tensor, inputs: Tensor, labels: Tensor, inverse_l2: float
) -> tuple[Tensor, Tensor]:
    """The objective over C·N, so that one tolerance serves all C and N, and its gradient (softmax − one-hot)ᵀ [z, 1].

    Args:
        parameters: weight and bias side by side, [K, F + 1].
        inputs: standardised, [N, F].
    """
    weight, bias = parameters[:, :-1], parameters[:, -1]
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
    """Fit one probe a C, the smallest first, each from the last one's solution.

    Raises:
        UserError: as `fit_probe`.
    """
    probes: dict[float, Probe] = {}
    last = None
    for inverse_l2 in sorted(set(grid)):
        last = probes[inverse_l2] = fit_probe(
            features, labels, inverse_l2, max_iterations, init=last
        )
    return probes

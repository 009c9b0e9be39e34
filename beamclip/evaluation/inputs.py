"""What a linear probe does to features before it looks at them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from beamclip.config import UserError
from beamclip.evaluation.features import check_finite


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
    std, mean = torch.std_mean(F.normalize(features.float(), dim=-1) if unit else features.float(), dim=0, correction=0)
    constant = std <= 1e-6 * mean.abs().clamp(min=1e-12)
    return Standardised(mean, torch.where(constant, 1.0, std), unit)


def check_fittable(features: Tensor, labels: Tensor) -> None:
    """See that a probe can be fitted.

    Raises:
        UserError: a feature is not finite, or all labels are the same.
    """
    check_finite(features, "the student's features")
    if bool((labels == labels[0]).all()):
        raise UserError(f"a linear probe needs two classes, but all {len(labels)} train labels are {int(labels[0])}; look at the data")

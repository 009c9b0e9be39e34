"""A fitted linear probe, and its file."""

from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from beamclip.config import UserError
from beamclip.evaluation.inputs import Standardised
from beamclip.students import write_tensors

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
        return F.linear(Standardised(self.mean, self.std, self.unit)(features), self.weight, self.bias)

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
        raise UserError(f"{path} can't be read as a linear probe ({error}); check the path") from None

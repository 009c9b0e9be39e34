"""A fitted linear probe, and its file."""

from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from beamclip.config import UserError
from beamclip.students import write_tensors


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

    def logits(self, features: Tensor) -> Tensor:
        """[N, F] -> [N, K]."""
        return F.linear((features.float() - self.mean) / self.std, self.weight, self.bias)

    def predict(self, features: Tensor) -> Tensor:
        """[N, F] -> classes, int64 [N]."""
        return self.logits(features).argmax(-1)


def save_probe(probe: Probe, path: Path) -> None:
    """Write weight, bias, mean and std as safetensors.

    Raises:
        UserError: the file can't be written.
    """
    write_tensors(path, vars(probe), {"probe_format": "beamclip-probe-1"})


def load_probe(path: Path) -> Probe:
    """Read what `save_probe` wrote, onto the CPU.

    Raises:
        UserError: the file is missing, damaged or not a probe of ours.
    """
    try:
        return Probe(**load_file(path))
    except (OSError, SafetensorError, TypeError) as error:
        raise UserError(f"{path} can't be read as a linear probe ({error}); check the path") from None

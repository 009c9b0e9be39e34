"""From the host's memory to a device's."""

import torch
from torch import Tensor


def to_device(array: Tensor, device: torch.device) -> Tensor:
    """To a GPU through pinned memory: the GPU copies when its turn comes, and the thread that asked goes on at once.

    A plain `.to(device)` would wait for all that its stream was given before, and beside training that is long.
    """
    return array.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else array.to(device)

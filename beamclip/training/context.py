"""What the loop knows of the world around it: its place among the workers, and whom to tell."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

Report = Callable[[dict[str, Any], Path | None], None]
"""Called on every rank equally often, with metrics and, on rank 0, the folder of a checkpoint."""


def report_nowhere(metrics: dict[str, Any], checkpoint: Path | None) -> None:
    """For a notebook or a test."""


@dataclass(frozen=True)
class Context:
    """One worker. The defaults are a single process on the CPU, which needs no process group.

    Attributes:
        checkpoint: folder of the checkpoint to go on from, if any.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009, a device is immutable
    report: Report = report_nowhere
    checkpoint: Path | None = None

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the workers, element by element."""
        if self.world_size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.world_size

    def share_buffers(self, module: nn.Module) -> None:
        """Give every worker rank 0's buffers: batch norm that is not synchronised has other running statistics on each."""
        if self.world_size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Put rows dealt out as `everything[rank::world_size]` together again in their order, on every worker.

        rows: [n, …], where n may be one larger on the first ranks.
        """
        if self.world_size == 1:
            return rows
        counts = [
            torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(self.world_size)
        ]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        longest = int(torch.cat(counts).max())
        padded = torch.zeros(longest, *rows.shape[1:], dtype=rows.dtype, device=rows.device)
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, dim=1).flatten(0, 1)[: int(torch.cat(counts).sum())]

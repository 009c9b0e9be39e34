"""The context of one worker: its rank and device, and the function it reports to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

Report = Callable[[dict[str, Any], Path | None], None]
"""Called with metrics and, on rank 0, the folder of a checkpoint, else None.

Ray Train's implementation waits for all ranks, so every rank must call it equally often. The folder
is deleted after the call."""


def report_nowhere(metrics: dict[str, Any], checkpoint: Path | None) -> None:
    """Ignore the report, for notebooks and tests."""


@dataclass(frozen=True)
class Context:
    """One worker. The defaults are a single process on the CPU, which needs no process group.

    Attributes:
        rank: 0 to world_size - 1.
        world_size: number of workers of the run.
        device: device of the student and of the batches.
        report: receives the metrics and checkpoints.
        checkpoint: folder of the checkpoint to resume from, or None to start from the beginning.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009, a device is immutable
    report: Report = report_nowhere
    checkpoint: Path | None = None

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the workers, element by element."""
        if self.world_size == 1:
            return values
        # all_reduce works in place, and the argument must not change.
        values = values.clone()
        dist.all_reduce(values)
        return values / self.world_size

    def share_buffers(self, module: nn.Module) -> None:
        """Copy rank 0's buffers to every worker, in place.

        If batch norm is not synchronized, its running statistics differ between workers.
        """
        if self.world_size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Gather rows that were split as `everything[rank::world_size]`, in their original order.

        Args:
            rows: this worker's rows, [n, ...]; n may be larger by one on the first ranks.

        Returns:
            All rows, [N, ...], the same on every worker.
        """
        if self.world_size == 1:
            return rows
        count = torch.tensor([len(rows)], device=rows.device)
        gathered_counts = [torch.zeros_like(count) for _ in range(self.world_size)]
        dist.all_gather(gathered_counts, count)
        counts = torch.cat(gathered_counts)
        longest = int(counts.max())
        total = int(counts.sum())
        # all_gather needs tensors of equal shape, so pad the shorter ones.
        padded = torch.zeros(longest, *rows.shape[1:], dtype=rows.dtype, device=rows.device)
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(gathered, padded)
        # Row i of rank r was row i * world_size + r. The padding comes last and is cut off.
        return torch.stack(gathered, dim=1).flatten(0, 1)[:total]

"""Gather the rows of all workers, with gradients.

An objective that compares images with each other must see the whole batch on every worker.

`torch.distributed.nn.functional.all_gather` is not used. With two gloo workers its gradients differ
from those of one worker with the whole batch (torch 2.15, found by the test of SimCLR on two
workers).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def workers() -> tuple[int, int]:
    """Return (rank, number of workers); (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all workers in the order of ranks.

    The gradient of a row is the sum over all workers' losses. DDP then averages the gradients of
    the parameters over the workers, so the mean of the workers' losses is minimized.

    Args:
        rows: this worker's rows, [n, …], with the same n on every worker.

    Returns:
        [workers · n, …].
    """
    return rows if workers()[1] == 1 else _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # A copy, because all_reduce works in place and autograd may still need the argument.
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        # The part that belongs to this worker's rows.
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]

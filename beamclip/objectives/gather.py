"""Gather rows of all workers, with gradients.

An objective that compares images across the batch must see the same batch on any number of workers.
`torch.distributed.nn.functional.all_gather` is not used: with two gloo workers its gradients are
not those of one worker with the whole batch (torch 2.15; the test of SimCLR on two workers shows
it).
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
    """Return the rows of all workers, [n, …] -> [workers · n, …], in the order of ranks.

    n must be the same on each worker.

    Differentiable: the gradient of a row is the sum of the gradients of all workers' losses. DDP
    then averages the parameters' gradients over workers, so the mean of the workers' losses is
    minimized.
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
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]

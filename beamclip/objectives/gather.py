"""Rows of all workers, with gradients: what compares images with the whole batch must see the same batch on any number of workers."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def workers() -> tuple[int, int]:
    """(rank, number of workers); (0, 1) where there is no process group."""
    return (
        (dist.get_rank(), dist.get_world_size())
        if dist.is_available() and dist.is_initialized()
        else (0, 1)
    )


def gather_rows(rows: Tensor) -> Tensor:
    """Every worker's rows, [n, …] -> [workers · n, …], in the order of ranks; n must be the same on each.

    Differentiable: the gradient of a row is the sum over the workers of what each one's loss says about it. DDP then takes the mean
    over workers of the parameters' gradients, so that the mean of the workers' losses is what is minimised.
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

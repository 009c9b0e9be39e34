"""Batches in an order that depends on seed and epoch alone, made ahead of the device."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int64]


def epoch_order(ids: Ids, seed: int, epoch: int) -> Ids:
    """The samples in this epoch's order: a permutation drawn from (seed, epoch), whatever came before."""
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(ids)


def rank_batches(order: Ids, batch_size: int, rank: int, world_size: int) -> Iterator[Ids]:
    """This rank's share of every global batch; the last, incomplete batch is left out.

    The global batches are the same for any number of workers, which is what makes their loss curves equal.
    """
    share = batch_size // world_size
    for start in range(0, len(order) - batch_size + 1, batch_size):
        yield order[start + rank * share : start + (rank + 1) * share]


@dataclass
class Batch:
    """One rank's part of a step, on its device: B images of which V large views and C small crops.

    Views of all images stand together: row v · B + i is view v of image i.

    Attributes:
        images: rendered views, [V · B, 3, S, S] float32.
        teachers: each teacher's embeddings of the same views, [V · B, D_m] float32.
        count: B; 0 for as many as there are views.
        crops: [C · B, 3, s, s] float32, None where there are none.
        labels: classes, int64 [B], None where nobody asks.
        clusters: numbers of the clusters, int64 [B], likewise.
        epoch: epochs done before this step, with the part of the present one.
    """

    images: Tensor
    teachers: tuple[Tensor, ...] = ()
    count: int = 0
    crops: Tensor | None = None
    labels: Tensor | None = None
    clusters: Tensor | None = None
    epoch: float = 0.0

    def __post_init__(self) -> None:
        self.count = self.count or len(self.images)


def use_on_current_stream(batch: Batch) -> None:
    """Tell the allocator that the training stream reads memory the loading stream made."""
    if batch.images.is_cuda:
        stream = torch.cuda.current_stream(batch.images.device)
        for tensor in (batch.images, *batch.teachers, batch.crops, batch.labels, batch.clusters):
            if tensor is not None:
                tensor.record_stream(stream)

"""One epoch: batches in, loss down. Knows no method, no teacher and no tracker, and never waits for the device inside an epoch."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from beamclip.config import UserError
from beamclip.data.ahead import Ahead
from beamclip.training.batches import Batch, Ids, use_on_current_stream
from beamclip.training.context import Context

HISTORY_POINTS = 20  # a curve needs no more an epoch, and the tracker's disk is not free


@dataclass
class Machinery:
    """What moves during training. `network` is the student, wrapped for DDP or compiled as may be."""

    network: nn.Module
    objective: nn.Module
    optimiser: Optimizer
    schedule: LRScheduler
    autocast: Callable[[], AbstractContextManager[Any]]
    clip_norm: float | None


@dataclass
class EpochResult:
    """Means over an epoch and over the workers.

    Attributes:
        metrics: `train/…` scalars.
        history: `[key, value, step]` points of the curve inside the epoch.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    history: list[tuple[str, float, int]] = field(default_factory=list)


def train_step(machinery: Machinery, batch: Batch) -> dict[str, Tensor]:
    """Forward, backward, step. Returns the objective's terms, detached and still on the device."""
    with machinery.autocast():
        embeddings = machinery.network(batch.images)
    terms: dict[str, Tensor] = machinery.objective(embeddings, *batch.teachers)
    machinery.optimiser.zero_grad(set_to_none=True)
    terms["loss"].backward()  # type: ignore[no-untyped-call]
    if machinery.clip_norm is not None:
        parameters = [p for group in machinery.optimiser.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, machinery.clip_norm)
    machinery.optimiser.step()
    machinery.schedule.step()
    return {name: term.detach() for name, term in terms.items()}


def train_epoch(machinery: Machinery, batches: Ahead[Ids, Batch], context: Context, first_step: int) -> EpochResult:
    """Train on all batches of one epoch.

    Args:
        first_step: the number of the epoch's first step, for the curve.
    """
    machinery.network.train()
    learning_rate = machinery.optimiser.param_groups[0]["lr"]
    start, images = time.perf_counter(), 0
    recorded: list[dict[str, Tensor]] = []
    for batch in batches:
        use_on_current_stream(batch)
        recorded.append(train_step(machinery, batch))
        images += len(batch.images)
    terms = {name: context.mean(torch.stack([step[name] for step in recorded]).float()).cpu() for name in recorded[0]}
    seconds = time.perf_counter() - start  # after .cpu(), which waits for the device
    result = EpochResult({f"train/{name}": float(values.mean()) for name, values in terms.items()})
    result.metrics |= {
        "train/images_per_second": images * context.world_size / seconds,
        "train/images_per_second_per_device": images / seconds,
        "train/data_wait": 100 * batches.waited / seconds,
        "train/lr": learning_rate,
    }
    result.history = _history(terms, first_step)
    return result


def _history(terms: dict[str, Tensor], first_step: int) -> list[tuple[str, float, int]]:
    """The curve, thinned to means over equal stretches of steps."""
    points = []
    for name, values in terms.items():
        step = first_step
        for stretch in values.tensor_split(min(HISTORY_POINTS, len(values))):
            step += len(stretch)
            points.append((f"train/{name}", float(stretch.mean()), step))
    return points


class TrainingDiverged(UserError):
    """The loss is no longer a number. All workers find it together, and trying again would not help."""


def first_bad_step(history: list[tuple[str, float, int]]) -> int | None:
    """Around which step the loss stopped being a number, if it did."""
    bad = [step for key, value, step in history if key == "train/loss" and not torch.isfinite(torch.tensor(value))]
    return min(bad) if bad else None

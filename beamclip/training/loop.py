"""One epoch: batches in, loss down. Knows no method, no teacher and no tracker, and never waits for the device inside an epoch."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from beamclip.config import UserError
from beamclip.data.prefetch import Prefetcher
from beamclip.objectives import Objective
from beamclip.training.context import Context
from beamclip.training.dataloader import Batch, use_on_current_stream

HISTORY_POINTS = 20  # a curve needs no more an epoch, and the tracker's disk is not free


@dataclass
class TrainState:
    """What moves during training. `network` is the learner, wrapped for DDP as may be; `objective` is a part of it."""

    network: nn.Module
    objective: Objective
    optimiser: Optimizer
    schedule: LRScheduler
    clip_norm: float | None


@dataclass
class EpochResult:
    """Means over an epoch and over the workers.

    Attributes:
        metrics: `train/…` scalars.
        history: `[key, value, step]` points of the curve inside the epoch.
        bad_step: the first step of the epoch, from 0, whose loss is no number, if there is one.
        seconds: how long it took.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    history: list[tuple[str, float, int]] = field(default_factory=list)
    bad_step: int | None = None
    seconds: float = 0.0


def train_step(machinery: TrainState, batch: Batch) -> dict[str, Tensor]:
    """Forward, backward, step. Returns the objective's terms, detached and still on the device."""
    terms: dict[str, Tensor] = machinery.network(batch)
    machinery.optimiser.zero_grad(set_to_none=True)
    terms["loss"].backward()  # type: ignore[no-untyped-call]
    machinery.objective.after_backward()
    if machinery.clip_norm is not None:
        parameters = [p for group in machinery.optimiser.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, machinery.clip_norm)
    machinery.optimiser.step()
    machinery.schedule.step()
    return {name: term.detach() for name, term in terms.items()}


def train_epoch(
    machinery: TrainState, batches: Prefetcher[Any, Batch], context: Context, first_step: int
) -> EpochResult:
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
        images += batch.count
    terms = {
        name: context.mean(torch.stack([step[name] for step in recorded]).float()).cpu()
        for name in recorded[0]
    }
    seconds = time.perf_counter() - start  # after .cpu(), which waits for the device
    result = EpochResult({f"train/{name}": float(values.mean()) for name, values in terms.items()})
    result.metrics |= {
        "train/images_per_second": images * context.world_size / seconds,
        "train/images_per_second_per_device": images / seconds,
        "train/data_wait": 100 * batches.waited / seconds,
        "train/lr": learning_rate,
    }
    result.history, result.bad_step, result.seconds = (
        _history(terms, first_step),
        _first_bad(terms["loss"]),
        seconds,
    )
    return result


def _first_bad(losses: Tensor) -> int | None:
    bad = (~torch.isfinite(losses)).nonzero()
    return int(bad[0]) if len(bad) else None


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
    """The loss is no longer a number. All workers find it together, and trying again would not help.

    Attributes:
        evidence: what is kept to find out why: the step, and the ids of its samples. JSON values.
    """

    def __init__(self, message: str, evidence: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.evidence = evidence or {}

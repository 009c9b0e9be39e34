"""Train for one epoch: batches in, metrics out.

The loop knows no method, no teacher and no tracker. It never waits for the device inside an epoch:
losses stay on the device until the epoch ends.
"""

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
from beamclip.training.dataloader import Batch, record_stream

# Points of a curve per epoch. More would take up the tracker's disk space and show nothing new.
HISTORY_POINTS = 20


class TrainingDiverged(UserError):
    """Raised if the loss or the student's features are not finite.

    All workers raise it together. A retry would give the same result.

    Attributes:
        evidence: JSON values for finding the cause: step, epoch, sample ids of the step, settings.
            Empty if the step is unknown.
    """

    def __init__(self, message: str, evidence: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.evidence = evidence or {}


@dataclass
class TrainState:
    """The objects that change during training.

    Attributes:
        network: the `TrainModule`, wrapped for DDP if there are several workers.
        objective: the network's objective.
        optimizer: optimizer of student and objective.
        schedule: learning-rate schedule, stepped once per training step.
        clip_norm: largest norm of all gradients together, or None for no clipping.
    """

    network: nn.Module
    objective: Objective
    optimizer: Optimizer
    schedule: LRScheduler
    clip_norm: float | None


@dataclass
class EpochResult:
    """Results of an epoch, averaged over the workers.

    Attributes:
        metrics: `train/…` scalars.
        history: points (key, value, step) of the curves inside the epoch; steps count from the
            first epoch.
        bad_step: first step with a loss that is not finite, from 0 in this epoch, or None.
        seconds: duration of the epoch on this worker, not averaged.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    history: list[tuple[str, float, int]] = field(default_factory=list)
    bad_step: int | None = None
    seconds: float = 0.0


def train_step(state: TrainState, batch: Batch) -> dict[str, Tensor]:
    """Run the forward pass, the backward pass and the steps of optimizer and schedule.

    Returns:
        The terms of the objective, detached and still on the device.
    """
    terms: dict[str, Tensor] = state.network(batch)
    state.optimizer.zero_grad(set_to_none=True)
    terms["loss"].backward()  # type: ignore[no-untyped-call]
    state.objective.after_backward()
    if state.clip_norm is not None:
        parameters: list[nn.Parameter] = []
        for group in state.optimizer.param_groups:
            parameters.extend(group["params"])
        nn.utils.clip_grad_norm_(parameters, state.clip_norm)
    state.optimizer.step()
    state.schedule.step()
    return {name: term.detach() for name, term in terms.items()}


def train_epoch(
    state: TrainState, batches: Prefetcher[Any, Batch], context: Context, first_step: int
) -> EpochResult:
    """Train on all batches of one epoch.

    Args:
        state: changed in place.
        batches: batches of this worker, at least one.
        context: context of this worker.
        first_step: number of training steps before this epoch, for the curves.
    """
    state.network.train()
    # Read it now: the schedule changes it in every step.
    learning_rate = state.optimizer.param_groups[0]["lr"]
    start = time.perf_counter()
    images = 0
    recorded: list[dict[str, Tensor]] = []
    for batch in batches:
        record_stream(batch)
        recorded.append(train_step(state, batch))
        images += batch.count
    # One reduction over the workers and one copy from the device for each term, not for each step.
    terms: dict[str, Tensor] = {}
    for name in recorded[0]:
        values = torch.stack([step[name] for step in recorded]).float()
        terms[name] = context.mean(values).cpu()
    # .cpu() has waited for the device, so all steps are done by now.
    seconds = time.perf_counter() - start
    metrics = {f"train/{name}": float(values.mean()) for name, values in terms.items()}
    metrics |= {
        "train/images_per_second": images * context.world_size / seconds,
        "train/images_per_second_per_device": images / seconds,
        "train/data_wait": 100 * batches.waited / seconds,
        "train/lr": learning_rate,
    }
    return EpochResult(
        metrics,
        history=_history(terms, first_step),
        bad_step=_first_bad_step(terms["loss"]),
        seconds=seconds,
    )


def _first_bad_step(losses: Tensor) -> int | None:
    bad_steps = (~torch.isfinite(losses)).nonzero()
    return int(bad_steps[0]) if len(bad_steps) else None


def _history(terms: dict[str, Tensor], first_step: int) -> list[tuple[str, float, int]]:
    """Return the curve of each term: means over at most `HISTORY_POINTS` chunks of steps."""
    points = []
    for name, values in terms.items():
        step = first_step
        # Each point is at the last step of its chunk.
        for chunk in values.tensor_split(min(HISTORY_POINTS, len(values))):
            step += len(chunk)
            points.append((f"train/{name}", float(chunk.mean()), step))
    return points

"""Save and load checkpoints: all that is needed to resume a run exactly, without the teacher."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from beamclip.students import Student, TrainingCost, save_student


@dataclass(frozen=True)
class Progress:
    """Progress of a run. The field names are keys in `state.pt`.

    Attributes:
        epoch: number of finished epochs.
        seconds: training time so far, summed over all devices.
        encoded: images that teachers have encoded during training, in all workers.
    """

    epoch: int = 0
    seconds: float = 0.0
    encoded: int = 0


def save_checkpoint(  # noqa: PLR0913 - the parts of a run, and its progress
    folder: Path,
    student: Student,
    objective: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
    progress: Progress,
    spent: TrainingCost | None = None,
) -> Path:
    """Write `student.safetensors` (the result) and `state.pt` (the rest of the state) to a folder.

    Sample order, views and random state follow from seed, epoch and rank, so they are not saved.

    Args:
        folder: created if it does not exist.
        student: the student as it is now.
        objective: its persistent buffers (queues) and parameters (heads) are saved.
        optimizer: its state is saved.
        schedule: its state is saved.
        progress: saved next to the state.
        spent: total cost so far, including the cost of the student this one started from.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_student(student, folder / "student.safetensors", cost=spent)
    # The keys are a file format, so they keep their first spelling: checkpoints of running sweeps
    # use them.
    state = {
        **asdict(progress),
        "objective": objective.state_dict(),
        "optimiser": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
    }
    # Rename at the end, so that a crash leaves no half-written file.
    temporary = folder / "state.pt.tmp"
    torch.save(state, temporary)
    os.replace(temporary, folder / "state.pt")
    return folder


def load_checkpoint(
    folder: Path,
    student: Student,
    objective: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
) -> Progress:
    """Load a checkpoint's state into these objects, in place.

    Args:
        folder: folder of the checkpoint.
        student: gets the saved weights and buffers.
        objective: gets the saved buffers and parameters.
        optimizer: gets the saved state.
        schedule: gets the saved state.

    Returns:
        The progress of the run when the checkpoint was written.
    """
    # With weights_only, a file from elsewhere can't run code.
    state: dict[str, Any] = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    student.load_state_dict(load_file(folder / "student.safetensors"))
    objective.load_state_dict(state["objective"])
    optimizer.load_state_dict(state["optimiser"])
    schedule.load_state_dict(state["schedule"])
    # Checkpoints of earlier versions have neither seconds nor encoded.
    return Progress(state["epoch"], state.get("seconds", 0.0), state.get("encoded", 0))

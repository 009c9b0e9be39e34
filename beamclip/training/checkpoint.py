"""Checkpoints: everything needed to go on exactly, and nothing of the teacher."""

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
    """How far a run is.

    Attributes:
        epoch: how many epochs are done.
        seconds: of training so far, of all devices together.
        encoded: images that teachers have encoded inside it, in all its workers.
    """

    epoch: int = 0
    seconds: float = 0.0
    encoded: int = 0


def save_checkpoint(
    folder: Path,
    student: Student,
    objective: nn.Module,
    optimiser: Optimizer,
    schedule: LRScheduler,
    progress: Progress,
    spent: TrainingCost | None = None,
) -> Path:
    """Write `student.safetensors` (what people use) and `state.pt` (what training needs beside it) into a folder.

    The order of samples, the views and the random state of an epoch follow from seed and epoch number, so they need no keeping.

    Args:
        spent: in all, on the student it started from too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_student(student, folder / "student.safetensors", spent=spent)
    state = {
        **asdict(progress),
        "objective": objective.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
    }
    temporary = folder / "state.pt.tmp"
    torch.save(state, temporary)
    os.replace(temporary, folder / "state.pt")
    return folder


def load_checkpoint(
    folder: Path,
    student: Student,
    objective: nn.Module,
    optimiser: Optimizer,
    schedule: LRScheduler,
) -> Progress:
    """Put a checkpoint's state into these objects. Returns how far it was."""
    state: dict[str, Any] = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    student.load_state_dict(load_file(folder / "student.safetensors"))
    objective.load_state_dict(state["objective"])
    optimiser.load_state_dict(state["optimiser"])
    schedule.load_state_dict(state["schedule"])
    return Progress(
        state["epoch"], state.get("seconds", 0.0), state.get("encoded", 0)
    )  # older ones kept less

"""Checkpoints: everything needed to go on exactly, and nothing of the teacher."""

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from beamclip.students import Spent, Student, save_student


def save_checkpoint(
    folder: Path,
    student: Student,
    objective: nn.Module,
    optimiser: Optimizer,
    schedule: LRScheduler,
    epoch: int,
    seconds: float = 0.0,
    spent: Spent | None = None,
) -> Path:
    """Write `student.safetensors` (what people use) and `state.pt` (what training needs beside it) into a folder.

    The order of samples, the views and the random state of an epoch follow from seed and epoch number, so they need no keeping.

    Args:
        epoch: how many epochs are done.
        seconds: of training so far, of all devices together.
        spent: in all, on the student it started from too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_student(student, folder / "student.safetensors", spent=spent)
    state = {
        "epoch": epoch,
        "seconds": seconds,
        "objective": objective.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
    }
    temporary = folder / "state.pt.tmp"
    torch.save(state, temporary)
    os.replace(temporary, folder / "state.pt")
    return folder


def load_checkpoint(folder: Path, student: Student, objective: nn.Module, optimiser: Optimizer, schedule: LRScheduler) -> dict[str, Any]:
    """Put a checkpoint's state into these objects. Returns `epoch` and `seconds`."""
    state: dict[str, Any] = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    student.load_state_dict(load_file(folder / "student.safetensors"))
    objective.load_state_dict(state["objective"])
    optimiser.load_state_dict(state["optimiser"])
    schedule.load_state_dict(state["schedule"])
    return {"epoch": state["epoch"], "seconds": state.get("seconds", 0.0)}

"""Statuses of sweeps and trials, in MLflow's words."""

from typing import Literal

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
"""KILLED is a run that was interrupted: `--resume` continues it."""

"""Statuses of sweeps and trials, in MLflow's words."""

from typing import Literal

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
"""A KILLED run was interrupted, and `--resume` continues it."""

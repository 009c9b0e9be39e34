"""Check the objectives that come from a user's file or another package, before a sweep starts."""

import subprocess
import sys
from pathlib import Path

from beamclip.config import Experiment, Sweep, UserError, planned_values, trial_experiment
from beamclip.config.objective_registry import built_in_objectives

_LIMIT_S = 300


def check_own_objectives(sweep: Sweep, base: Experiment) -> None:
    """Call each objective from outside once, on random tensors, in a process of its own.

    Raises:
        UserError: an objective fails or returns something else than named scalars.
    """
    built_in = built_in_objectives()
    configs = {}
    for values in planned_values(sweep):
        objective = trial_experiment(sweep, base, values).objective
        if any(part not in built_in for part in objective.parts):
            configs[objective.name] = objective
    for name, objective in configs.items():
        print(f"beamclip: trying objective {name} on random tensors …", file=sys.stderr, flush=True)
        try:
            result = subprocess.run(
                [sys.executable, "-m", "beamclip.objectives.check"],
                input=objective.model_dump_json(),
                capture_output=True,
                text=True,
                timeout=_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"objective.name {name} did not finish on random tensors within {_LIMIT_S} s"
            ) from None
        if result.returncode:
            lines = (result.stdout.strip() or result.stderr.strip()).splitlines()
            raise UserError(lines[-1] if lines else f"objective.name {name} fails")


def check_files_unchanged(base: Experiment, folder: str) -> None:
    """Make sure that a resumed sweep runs the same code as before.

    Args:
        base: settings of the sweep that is resumed.
        folder: the sweep's own folder. Nothing in it is executed.

    Raises:
        UserError: a user's file is missing, has changed, or is in the sweep's folder.
    """
    for path, text in base.objective.code.items():
        if Path(path).is_relative_to(folder):
            raise UserError(
                f"the objective's file {path} is in the sweep's own folder; move it out"
            )
        try:
            current = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            current = None
        if current is None:
            raise UserError(f"the objective's file {path} is gone; put it back to resume the sweep")
        if current != text:
            raise UserError(
                f"the objective's file {path} has changed since the sweep began; "
                "restore it, or start a new sweep"
            )

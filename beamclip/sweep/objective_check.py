"""Check objectives that are not built in, from a user's file or another package.

A typo in such an objective should cost seconds before a sweep, not minutes in each of its trials.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from beamclip.config import Experiment, Sweep, UserError, planned_values, trial_experiment
from beamclip.config.objective_registry import built_in_objectives

_TIMEOUT_SECONDS = 300


def check_own_objectives(sweep: Sweep, base: Experiment) -> None:
    """Call each objective that is not built in on random tensors, once with each of its settings.

    Raises:
        UserError: an objective fails or does not return named scalars, or it takes over 300 s.
    """
    built_in = set(built_in_objectives())
    configs = []
    names = []
    for values in planned_values(sweep):
        objective = trial_experiment(sweep, base, values).objective
        # An objective may be a sum of several, such as `csm+my_losses.py:my_loss`.
        if built_in.issuperset(objective.parts):
            continue
        # All settings are tried, not all names: one value of a setting may fail where others work.
        config = objective.model_dump(mode="json")
        if config not in configs:
            configs.append(config)
        if objective.name not in names:
            names.append(objective.name)
    if not configs:
        return
    tried = ", ".join(names)
    print(f"beamclip: trying objective {tried} on random tensors …", file=sys.stderr, flush=True)
    try:
        # A process of its own, because this needs torch, which the driver does not import.
        result = subprocess.run(
            [sys.executable, "-m", "beamclip.objectives.check"],
            input=json.dumps(configs),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=os.environ | {"PYTHONIOENCODING": "utf-8"},
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"objective.name {tried} did not finish on random tensors within {_TIMEOUT_SECONDS} s"
        ) from None
    if result.returncode:
        # The check prints one sentence. After a crash, a traceback ends with the error.
        lines = (result.stdout.strip() or result.stderr.strip()).splitlines()
        raise UserError(lines[-1] if lines else f"objective.name {tried} fails")


def check_files_unchanged(base: Experiment, folder: str) -> None:
    """Check that the files of users' objectives are the same as when the sweep began.

    Args:
        base: settings of the sweep to resume; they hold the text of each file at that time.
        folder: the sweep's own folder. No code in it may be run.

    Raises:
        UserError: a file is missing, has changed, or is in the sweep's folder.
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

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
from beamclip.stores.absolute import objective_files

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
            # -P: files in the current folder must not replace modules, such as a `random.py`.
            [sys.executable, "-P", "-m", "beamclip.objectives.check"],
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
    if result.returncode < 0:
        raise UserError(f"objective.name {tried} crashed Python with signal {-result.returncode}")
    if result.returncode:
        # The check prints one sentence. After a crash, a traceback ends with the error.
        lines = (result.stdout.strip() or result.stderr.strip()).splitlines()
        raise UserError(lines[-1] if lines else f"objective.name {tried} fails")


def check_files_unchanged(sweep: Sweep, base: Experiment, folder: str) -> None:
    """Check that the files of users' objectives are the same as when the sweep began.

    Args:
        sweep: the sweep to resume.
        base: its settings; they hold the text of each file at that time.
        folder: the sweep's own folder. No code in it may be run.

    Raises:
        UserError: a file is missing, has changed, is in the sweep's folder, or its text was not
            kept when the sweep began.
    """
    code = base.objective.code
    for path in objective_files(sweep, base):
        if path not in code:
            raise UserError(f"the sweep's record has no text of {path}; start a new sweep")
    settings = [*sweep.space, *(key for variant in sweep.variants.values() for key in variant)]
    if any(key == "objective.code" or key.startswith("objective.code.") for key in settings):
        raise UserError("the sweep's record sets objective.code in its trials; start a new sweep")
    for path, text in code.items():
        # A link may lead into the folder.
        resolved = Path(path).expanduser().resolve()
        if resolved.is_relative_to(Path(folder).resolve()):
            raise UserError(
                f"the objective's file {path} is in the sweep's own folder; move it out"
            )
        try:
            current = resolved.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            current = None
        if current is None:
            raise UserError(f"the objective's file {path} is gone; put it back to resume the sweep")
        if current != text:
            raise UserError(
                f"the objective's file {path} has changed since the sweep began; "
                "restore it, or start a new sweep"
            )

"""The commands to type after a sweep or to resume it, with the options that locate it."""

import shlex
import sys

from beamclip.config import Experiment, UserError
from beamclip.config.provenance import program, without_passwords
from beamclip.stores.paths import default_tracking_uri, storage_root, tracking_uri
from beamclip.stores.sweep_record import SweepRecord


def next_commands(
    name: str, base: Experiment, best: str | None = None, sweep_id: str | None = None
) -> str:
    """Return lines with the commands to look at a sweep more closely, without passwords.

    Args:
        name: name of the sweep.
        base: experiment with the sweep's storage and tracking settings.
        best: id of the best trial's MLflow run; None if no trial has a result.
        sweep_id: id of the sweep; None if it is the latest of its name, which the commands show by
            default.
    """
    uri = without_passwords(tracking_uri(base))
    options = _storage_options(base)
    sweep = [name, "--sweep", sweep_id] if sweep_id else [name]
    open_mlflow = uri
    if not uri.startswith("http"):
        open_mlflow = shlex.join(["mlflow", "ui", "--backend-store-uri", uri])
    lines = [
        ("Compare in the browser", open_mlflow),
        ("Compare again here", shlex.join(["beamclip", "compare", *sweep, *options])),
        ("A report to share", shlex.join(["beamclip", "report", *sweep, *options])),
    ]
    if best:
        evaluate = shlex.join(["beamclip", "evaluate", f"run:{best}", *options])
        lines.append(("Probe the best again", evaluate))
    return "\n" + "\n".join(f"{label + ':':<24} {command}" for label, command in lines)


def _storage_options(base: Experiment) -> list[str]:
    """Return --storage and --tracking-uri, each only if it is not the default."""
    root = storage_root(base)
    uri = tracking_uri(base)
    options = []
    if root != _default_root():
        options += ["--storage", without_passwords(root)]
    if uri != default_tracking_uri(root):
        options += ["--tracking-uri", without_passwords(uri)]
    return options


def _default_root() -> str | None:
    """Return the default storage root, or None if $BEAMCLIP_STORAGE is invalid."""
    try:
        return storage_root(Experiment())
    except UserError:
        # Not an error here: the sweep ran, so its storage was given by --storage or a preset.
        return None


def resume_command(record: SweepRecord) -> str:
    """Return the command that resumes a sweep after an interruption, without passwords."""
    is_script = sys.argv[0].endswith(".py")
    words = program()
    if not is_script:
        # The subcommand, such as `sweep` or `train`.
        words += sys.argv[1:2]
    # A script knows the name of its sweep, unless --name has changed it.
    was_renamed = any(word.startswith("--name") for word in sys.argv)
    if not is_script or was_renamed:
        words += ["--name", record.sweep.name]
    if record.base.storage.path:
        words += ["--storage", without_passwords(record.base.storage.path)]
    return shlex.join([*words, "--resume", record.sweep_id])

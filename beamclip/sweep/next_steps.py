"""What to type after a sweep, or to go on with one: whole lines, wherever its storage and tracking are."""

import shlex
import sys

from beamclip.config import Experiment, UserError
from beamclip.config.provenance import program, without_passwords
from beamclip.stores.paths import storage_root, tracking_uri
from beamclip.stores.sweep_record import SweepRecord


def next_lines(
    name: str, base: Experiment, best: str | None = None, sweep_id: str | None = None
) -> str:
    """The lines for whoever wants to look closer. A tracking server's own address is opened as it is; passwords are left out.

    Args:
        best: the MLflow run of the best trial, where there is one.
        sweep_id: of a sweep that is not the latest of its name, which the lines would show otherwise.
    """
    uri, elsewhere = without_passwords(tracking_uri(base)), _elsewhere(base)
    which = [name, "--sweep", sweep_id] if sweep_id else [name]
    words = {"Compare again here": ["compare", *which], "A page to send around": ["report", *which]}
    words |= {"Probe its best again": ["evaluate", f"run:{best}"]} if best else {}
    lines = {
        "Compare in the browser": uri
        if uri.startswith("http")
        else shlex.join(["mlflow", "ui", "--backend-store-uri", uri])
    }
    lines |= {what: shlex.join(["beamclip", *verb, *elsewhere]) for what, verb in words.items()}
    return "\n" + "\n".join(f"{what + ':':<24} {line}" for what, line in lines.items())


def _elsewhere(base: Experiment) -> list[str]:
    root, uri = storage_root(base), tracking_uri(base)
    where = ["--storage", without_passwords(root)] if root != _usual_root() else []
    return (
        [*where, "--tracking-uri", without_passwords(uri)]
        if uri != f"sqlite:///{root}/mlflow.db"
        else where
    )


def _usual_root() -> str | None:
    """None where the environment names no place, which nobody has to hear of who named another."""
    try:
        return storage_root(Experiment())
    except UserError:
        return None


def resume_line(record: SweepRecord) -> str:
    """The line to go on with after an interruption: a script knows its sweep's name unless it was given another."""
    script = sys.argv[0].endswith(".py")
    words = program() if script else [*program(), *sys.argv[1:2]]
    if not script or any(word.startswith("--name") for word in sys.argv):
        words += ["--name", record.sweep.name]
    where = (
        ["--storage", without_passwords(record.base.storage.path)]
        if record.base.storage.path
        else []
    )
    return shlex.join([*words, *where, "--resume", record.sweep_id])

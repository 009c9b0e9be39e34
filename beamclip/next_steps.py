"""What to type after a sweep, or to go on with one: whole lines, wherever its storage and tracking are."""

import shlex
import sys

from beamclip.config import Experiment
from beamclip.provenance import program, without_passwords
from beamclip.records import SweepRecord
from beamclip.storage import storage_root, tracking_uri


def next_lines(name: str, base: Experiment, best: str | None = None) -> str:
    """The lines for whoever wants to look closer. A tracking server's own address is opened as it is.

    Args:
        best: the MLflow run of the best trial, where there is one.
    """
    uri = without_passwords(tracking_uri(base))
    words = {"Compare again here": ["compare", name], "A page to send around": ["report", name]}
    words |= {"Probe its best again": ["evaluate", f"run:{best}"]} if best else {}
    lines = {"Compare in the browser": uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"}
    lines |= {what: shlex.join(["beamclip", *verb, *_elsewhere(base, uri)]) for what, verb in words.items()}
    return "\n" + "\n".join(f"{what + ':':<24} {line}" for what, line in lines.items())


def _elsewhere(base: Experiment, uri: str) -> list[str]:
    where = ["--storage", storage_root(base)] if storage_root(base) != storage_root(Experiment()) else []
    return [*where, "--tracking-uri", uri] if uri != f"sqlite:///{storage_root(base)}/mlflow.db" else where


def resume_line(record: SweepRecord) -> str:
    """The line to go on with after an interruption: a script knows its sweep's name unless it was given another."""
    script = sys.argv[0].endswith(".py")
    words = program() if script else [*program(), *sys.argv[1:2]]
    if not script or any(word.startswith("--name") for word in sys.argv):
        words += ["--name", record.sweep.name]
    where = ["--storage", record.base.storage.path] if record.base.storage.path else []
    return shlex.join([*words, *where, "--resume", record.sweep_id])

"""`beamclip train` and `beamclip sweep`: turn the options into a sweep and start it."""

import argparse
from typing import Any

from beamclip.cli.options import start_sweep
from beamclip.config import Asha, Sweep, UserError, parse_assignments, validate


def run_train(options: argparse.Namespace) -> None:
    """Run a sweep of one trial."""
    start_sweep(validate(Sweep, {"name": options.name}), options)


def run_free_sweep(options: argparse.Namespace) -> None:
    """Run a sweep over the dimensions given with --space."""
    settings: dict[str, Any] = {"name": options.name, "space": {}}
    for key, values in parse_assignments(options.space, "--space").items():
        settings["space"][key] = _dimension(key, values)
    if options.asha:
        settings["asha"] = Asha().model_dump()
    # Options that were not given are left to the defaults of `Sweep`.
    for name in ("question", "search", "trials"):
        value = getattr(options, name)
        if value is not None:
            settings[name] = value
    start_sweep(validate(Sweep, settings), options)


def _dimension(key: str, values: Any) -> dict[str, Any]:
    """Return the settings of a dimension: a list is a choice, a mapping is a range.

    Raises:
        UserError: `values` is neither, or the list is empty.
    """
    if isinstance(values, dict):
        return {"kind": "uniform", **values}
    if isinstance(values, list) and values:
        return {"kind": "choice", "values": values}
    raise UserError(
        f"--space {key} needs a list such as {key}=[0.01, 0.1] or, with --search random, a range "
        f"such as {key}='{{low: 0.01, high: 1, log: true}}'"
    )

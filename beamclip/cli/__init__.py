"""The command line: one module per command, and `sweep_main` for the scripts in `sweeps/`."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Import `sweep_main` on first use, so that importing `beamclip.cli` loads nothing else."""
    if name != "sweep_main":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from beamclip.cli.main import sweep_main

    return sweep_main

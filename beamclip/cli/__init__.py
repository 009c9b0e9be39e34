"""The command line: one module a command, and `sweep_main` for the scripts in `sweeps/`."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Import `sweep_main` on first use, so that `beamclip.cli` itself imports nothing."""
    if name != "sweep_main":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from beamclip.cli.main import sweep_main

    return sweep_main

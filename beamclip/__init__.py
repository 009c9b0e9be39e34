"""beamclip: turn a large frozen CLIP into small, fast vision models (BeamCLIP, arXiv 2301.02903).

This is the public API. Names are imported on first use, so `import beamclip` takes milliseconds
and imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# For type checkers and editors, which can't follow `__getattr__` below.
if TYPE_CHECKING:
    from beamclip.cli.main import sweep_main
    from beamclip.config import (
        Experiment,
        Requirements,
        Sweep,
        UserError,
        choice,
        load_experiment,
        loguniform,
        register_objective,
        uniform,
    )
    from beamclip.sweep.runner import run_sweep

__version__ = "0.2.0"

_MODULES = {
    "Experiment": "beamclip.config",
    "Requirements": "beamclip.config",
    "Sweep": "beamclip.config",
    "UserError": "beamclip.config",
    "choice": "beamclip.config",
    "load_experiment": "beamclip.config",
    "loguniform": "beamclip.config",
    "register_objective": "beamclip.config",
    "run_sweep": "beamclip.sweep.runner",
    "sweep_main": "beamclip.cli.main",
    "uniform": "beamclip.config",
}
"""The module of each public name."""

__all__ = [
    "Experiment",
    "Requirements",
    "Sweep",
    "UserError",
    "__version__",
    "choice",
    "load_experiment",
    "loguniform",
    "register_objective",
    "run_sweep",
    "sweep_main",
    "uniform",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use. Python calls this for missing attributes (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return the public names, also those that are not imported yet."""
    return __all__

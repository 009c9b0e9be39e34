"""Keep the saved state of older sweeps loadable after modules and classes were renamed.

Tune pickles its callbacks by module path and class name. `Tuner.restore` unpickles them in the
driver, so call `add_old_module_names` before it. Saved state also refers to the trainable by name:
the inner function `trial` of `beamclip.distributed.tune.trainable`, which keeps that name.
"""

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from beamclip.distributed.callback import SweepCallback

# Old module path -> old class name -> today's class. A subclass or copy would not do: the listener
# is set on this very class, not on the unpickled instance.
_OLD_NAMES: Mapping[str, Mapping[str, Any]] = {
    "beamclip.distributed.relay": {"Relay": SweepCallback},
    "beamclip.distributed.sweep": {"_Relay": SweepCallback},
}


def add_old_module_names() -> None:
    """Make the old module paths importable, each with the class names that old pickles need."""
    for path, names in _OLD_NAMES.items():
        # pickle looks in sys.modules first, so a module made here needs no file.
        module = sys.modules.setdefault(path, ModuleType(path, f"Names of {path} in old pickles."))
        vars(module).update(names)

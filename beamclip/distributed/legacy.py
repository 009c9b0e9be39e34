"""Keep the saved state of older sweeps loadable after modules and classes were renamed.

Tune pickles its callbacks by module path and name. `Tuner.restore` unpickles them in the driver,
so `add_old_module_names` must be called before. The other names that saved state refers to are
not module paths: the trainable's name is that of the inner function in
`beamclip.distributed.tune.trainable`.
"""

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from beamclip.distributed.callback import SweepCallback

# Old module path -> name in it -> today's object. It must be the very same class: the listener
# is set on the class, not on the unpickled instance.
_OLD_NAMES: Mapping[str, Mapping[str, Any]] = {
    "beamclip.distributed.relay": {"Relay": SweepCallback},
    "beamclip.distributed.sweep": {"_Relay": SweepCallback},
}


def add_old_module_names() -> None:
    """Make the module paths that old pickles name importable, each with the names they need."""
    for path, names in _OLD_NAMES.items():
        module = sys.modules.setdefault(path, ModuleType(path, f"Names of {path} in old pickles."))
        vars(module).update(names)

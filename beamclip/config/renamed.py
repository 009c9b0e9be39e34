"""Accept the old names of settings that were renamed.

Old names are replaced wherever settings are read: presets, `--set`, `--space`, variants, MLflow
params, and `sweep.json` and `config.yaml` of earlier runs. If the user typed an old name, the new
one is printed, once per process. Old names in stored records are replaced silently.

The key of a store is a hash of settings, and renaming a setting must not change it. So each renamed
field keeps its first name as `serialization_alias`, and hashes use `Strict.key_parts`, which dumps
by alias.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from beamclip.config.errors import UserError

RENAMED: Mapping[str, str] = {
    "optimiser": "optimizer",
    "student.drawn": "weight_init",
    "data.broken_fraction": "max_unreadable_fraction",
    "balance.neighbours": "neighbors",
    "probe.grid.normalisation": "normalization",
    "views.custom.*.grey": "gray",
}
"""Old dotted key -> new name of its last part. `*` stands for any one name."""

# The `*` of `RENAMED` stands below these.
_SECTIONS_OF_USERS_NAMES = {("views", "custom")}

_announced: set[str] = set()
"""Old keys whose new names were printed already."""


def current_key(key: str) -> str:
    """Return the current form of a dotted key: `optimiser.lr` -> `optimizer.lr`."""
    return ".".join(_current_parts(key.split(".")))


def _current_parts(parts: Sequence[str]) -> list[str]:
    """Return the current names along the path of a setting.

    Args:
        parts: the path: sections, then the setting.
    """
    current = list(parts)
    for old_key, new_name in RENAMED.items():
        old_parts = old_key.split(".")
        if len(current) < len(old_parts):
            continue
        # `current` may be longer: a renamed section renames the keys of all settings in it.
        pairs = zip(old_parts, current, strict=False)
        if all(old in ("*", part) for old, part in pairs):
            current[len(old_parts) - 1] = new_name
    return current


def current_names(
    settings: Mapping[str, Any], announce: bool = False, section: Sequence[str] = ()
) -> dict[str, Any]:
    """Return settings with every old name replaced by the current one.

    Args:
        settings: a tree of settings, values by dotted key, or a mixture of both.
        announce: print each old name once, to stderr. For settings that the user typed.
        section: path of the section that contains these settings, such as `("views", "custom")`;
            empty for a whole experiment.

    Raises:
        UserError: a setting is given under both its old and its new name.
    """
    current: dict[str, Any] = {}
    for name, value in settings.items():
        # A name that the user chose, such as a recipe's, may contain dots.
        is_users_name = tuple(section) in _SECTIONS_OF_USERS_NAMES
        names = [str(name)] if is_users_name else str(name).split(".")
        old_path = [*section, *names]
        new_path = _current_parts(old_path)
        old_key = ".".join(old_path)
        new_key = ".".join(new_path)
        # Keep an unchanged name as it is: YAML keys may be numbers.
        new_name = name if new_key == old_key else ".".join(new_path[len(section) :])
        if new_name in current:
            raise UserError(
                f"{new_key} is given twice, under its old name and its new one; keep {new_key}"
            )
        if announce and new_key != old_key:
            _announce(old_key, new_key)
        if isinstance(value, Mapping):
            value = current_names(value, announce, new_path)
        current[new_name] = value
    return current


def _announce(old_key: str, new_key: str) -> None:
    if old_key in _announced:
        return
    _announced.add(old_key)
    print(f"beamclip: {old_key} is now {new_key}; the old name still works", file=sys.stderr)

"""Short names for settings, for run names, table heads and axes."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

_LONG_NUMBER = 7
_SYMBOLS = {"objective.teacher_temperature": "τ_T", "objective.student_temperature": "τ_S"}


def short_names(keys: Iterable[str], symbols: bool = True) -> dict[str, str]:
    """Dotted key -> symbol or last part; two parts where the last one alone would name two keys."""
    keys = list(keys)
    leaves, known = Counter(_leaf(key) for key in keys), _SYMBOLS if symbols else {}
    return {key: known.get(key) or (_leaf(key) if leaves[_leaf(key)] == 1 else _leaf(key, 2)) for key in keys}


def run_name(values: Mapping[str, Any]) -> str:
    """`{"objective.teacher_temperature": 0.05}` -> `τ_T=0.05`; `base` where nothing varies. At most 200 characters."""
    names = short_names(values)
    return " ".join(f"{names[key]}={short_value(value)}" for key, value in values.items())[:200] or "base"


def short_value(value: Any) -> str:
    """Floats with four digits, anything else as it is written."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def is_number(text: str) -> bool:
    """Whether a value is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def digits(text: str) -> str:
    """A value as it is shown: a long number with four digits, anything else as it is."""
    return f"{float(text):.4g}" if len(text) > _LONG_NUMBER and is_number(text) else text


def _leaf(key: str, parts: int = 1) -> str:
    return ".".join(key.split(".")[-parts:])

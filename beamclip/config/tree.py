"""Dotted keys: the form settings have on the command line, in a search space and in MLflow."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from beamclip.config.errors import UserError, nearest
from beamclip.config.experiment import Experiment

Tree = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)

_MEANT = {
    "tuple_type": "a list, such as [1, 2]",
    "dict_type": "a mapping, such as {name: 1}",
    "model_type": "its settings, such as {key: 1}",
}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Tree:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`. Empty mappings and lists stay values."""
    flat: Tree = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        flat.update(flatten(value, f"{key}.") if isinstance(value, Mapping) and value else {key: value})
    return flat


def merge(base: Mapping[str, Any], over: Mapping[str, Any], model: Any = None) -> Tree:
    """A deep merge, `over` winning; lists are replaced whole.

    An empty mapping empties a setting that is a mapping, and leaves a section as it is: nothing in it was given.

    Args:
        model: of the settings in these trees; anything else where they are a setting's own.
    """
    merged, fields = dict(base), model.model_fields if _is_model(model) else {}
    for name, value in over.items():
        below, inner = merged.get(name), fields[name].annotation if name in fields else None
        if isinstance(below, Mapping) and isinstance(value, Mapping) and (value or _is_model(inner)):
            value = merge(below, value, inner)
        merged[name] = value
    return merged


def assign(tree: Mapping[str, Any], values: Mapping[str, Any]) -> Tree:
    """Set dotted keys in a copy of an experiment's tree.

    No check here: `checked` names an unknown key with its nearest neighbour.
    """
    for key, value in values.items():
        nested = value
        for name in reversed(key.split(".")):
            nested = {name: nested}
        tree = merge(tree, nested, Experiment)
    return dict(tree)


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key of a model, leaves only, in the order they are declared."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        inner: Any = field.annotation
        keys += known_keys(inner, f"{prefix}{name}.") if _is_model(inner) else [f"{prefix}{name}"]
    return keys


def checked(model: type[Model], tree: Mapping[str, Any]) -> Model:
    """Validate a tree.

    Raises:
        UserError: one sentence about the first thing that is wrong.
    """
    try:
        return model.model_validate_json(json.dumps(tree, default=str))  # YAML can be made to hold more than JSON, `!!binary` for one
    except ValidationError as error:
        raise UserError(_sentence(model, error)) from None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _sentence(model: type[BaseModel], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden" and "." in str(first["loc"][-1]) and key in known_keys(model):
        return f"{key} is written with dots, which is for the command line; write it nested: {_nested(key)}{more}"
    if first["type"] == "extra_forbidden":
        return f"{key} is not a setting{_near_key(key, known_keys(model))}{more}"
    if first["type"] == "literal_error":
        options = [option.strip(" '") for option in first["ctx"]["expected"].replace(" or ", ",").split(",")]
        return f"{key} can't be {first['input']!r}{nearest(str(first['input']), options)}{more}"
    if first["type"] == "too_short":
        return f"{key} holds {first['ctx']['actual_length']} values, and needs {first['ctx']['min_length']} or more{more}"
    if first["type"] == "missing":
        return f"{key} is not given, and has no default{more}"
    if first["type"] in _MEANT:
        return f"{key} is {first['input']!r}; write {_MEANT[first['type']]}{more}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{key}: {message}{more}" if key else f"{message}{more}"
    return f"{key} is {first['input']!r}: {message[0].lower()}{message[1:]}{more}"


def _nested(key: str) -> str:
    section, _, rest = key.partition(".")
    return f"{section}: {{{_nested(rest)}}}" if rest else f"{section}: …"


def _near_key(key: str, keys: Iterable[str]) -> str:
    known = list(keys)
    leaf = key.rsplit(".", 1)[-1]
    same_leaf = [other for other in known if other.rsplit(".", 1)[-1] == leaf]
    if same_leaf:
        return f"; did you mean {' or '.join(same_leaf[:3])}?"
    siblings = [other for other in known if other.rpartition(".")[0] == key.rpartition(".")[0]]
    return nearest(key, siblings) if nearest(key, siblings).startswith("; did") else nearest(key, known)

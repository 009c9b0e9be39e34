"""Settings as trees and dotted keys: flattening, merging, and `key=value` overrides.

A dotted key, such as `optimizer.lr`, is how a setting is named on the command line, in a search
space and in MLflow.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import yaml
from pydantic import BaseModel

from beamclip.config.errors import UserError
from beamclip.config.experiment import Experiment
from beamclip.config.plain_yaml import UnsupportedYaml, read_yaml
from beamclip.config.renamed import current_names

Tree = dict[str, Any]


def is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    """Return True if a field's annotation is a section, that is another model of settings."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return all dotted keys of a model, leaves only, in the order of their declaration."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        if is_model(field.annotation):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Tree:
    """Return a nested tree by dotted keys: `{"a": {"b": 1}}` -> `{"a.b": 1}`.

    Lists and empty mappings are values.
    """
    flat: Tree = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{key}.")
        else:
            flat[key] = value
    return flat


def merge(base: Mapping[str, Any], over: Mapping[str, Any], model: Any = None) -> Tree:
    """Return a deep merge of two trees, in which `over` wins. Lists are replaced whole.

    An empty mapping in `over` empties a setting that is a mapping. It leaves a section as it is,
    since it sets nothing in it.

    Args:
        base: the tree below.
        over: the tree on top.
        model: the model of these trees; None inside of a setting that is a mapping.
    """
    fields = model.model_fields if is_model(model) else {}
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        section = fields[name].annotation if name in fields else None
        sets_something = bool(value) or is_model(section)
        if isinstance(below, Mapping) and isinstance(value, Mapping) and sets_something:
            value = merge(below, value, section)
        merged[name] = value
    return merged


def assign(tree: Mapping[str, Any], values: Mapping[str, Any]) -> Tree:
    """Return a copy of an experiment's tree with dotted keys set.

    Keys are not checked here: `validate` names an unknown one together with similar keys.
    """
    assigned = current_names(tree)
    for key, value in current_names(values).items():
        nested = value
        for name in reversed(key.split(".")):
            nested = {name: nested}
        assigned = merge(assigned, nested, Experiment)
    return assigned


def parse_assignments(assignments: Sequence[str], option: str = "--set") -> Tree:
    """Parse `["optimizer.lr=1e-3"]` to `{"optimizer.lr": 0.001}`.

    Args:
        assignments: each `KEY=VALUE`, where the value is YAML; lists are written `[1, 2]`.
        option: the command line option they were given with, for messages.

    Raises:
        UserError: an item has no `=`, or its value is not YAML.
    """
    values = dict(_parse_assignment(item, option) for item in assignments)
    return current_names(values, announce=True)


def _parse_assignment(item: str, option: str) -> tuple[str, Any]:
    key, equals, text = item.partition("=")
    if not equals or not key.strip():
        raise UserError(f"{option} {item} has no value; write {option} {key or 'key'}=VALUE")
    try:
        return key.strip(), read_yaml(text)
    except UnsupportedYaml as error:
        raise UserError(f"{option} {key.strip()} {error}") from None
    except yaml.YAMLError:
        raise UserError(
            f"{option} {item}: {text!r} is not a value; quote it as YAML would"
        ) from None

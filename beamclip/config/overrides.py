"""Flatten and merge trees of settings, and parse `key=value` overrides.

On the command line, in search spaces and in MLflow, a setting has a dotted key: `optimizer.lr`.
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
    """Return True if a field's annotation is another model: the field is a section of settings."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted keys of a model's settings, without sections, in order of declaration."""
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


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any], model: Any = None) -> Tree:
    """Return a deep merge of two trees, in which `overrides` wins. Lists are replaced as a whole.

    An empty mapping in `overrides` sets nothing if it stands for a section, as in `student: {}`. As
    the value of a setting, as in `anchors.senses: {}`, it replaces the value in `base`.

    Args:
        base: the tree of settings.
        overrides: settings that replace those in `base`.
        model: the model that declares these settings, or None inside a setting that is a mapping.
    """
    fields = model.model_fields if is_model(model) else {}
    merged = dict(base)
    for name, value in overrides.items():
        base_value = merged.get(name)
        annotation = fields[name].annotation if name in fields else None
        empties_setting = not value and not is_model(annotation)
        if isinstance(base_value, Mapping) and isinstance(value, Mapping) and not empties_setting:
            value = merge(base_value, value, annotation)
        merged[name] = value
    return merged


def assign(tree: Mapping[str, Any], values: Mapping[str, Any]) -> Tree:
    """Return a copy of an experiment's tree with dotted keys set.

    Unknown keys are kept. `validate` reports them, with similar keys as suggestions.
    """
    assigned = current_names(tree)
    for key, value in current_names(values).items():
        # Nest the value from the inside out: `a.b` -> `{a: {b: value}}`.
        nested = value
        for name in reversed(key.split(".")):
            nested = {name: nested}
        assigned = merge(assigned, nested, Experiment)
    return assigned


def parse_assignments(assignments: Sequence[str], option: str = "--set") -> Tree:
    """Parse `["optimizer.lr=1e-3"]` to `{"optimizer.lr": 0.001}`.

    Args:
        assignments: texts `KEY=VALUE`. The value is YAML, so a list is `[1, 2]`.
        option: the command-line option that they were given with; error messages name it.

    Raises:
        UserError: an assignment has no key or no `=`, or its value is not YAML.
    """
    values = dict(_parse_assignment(assignment, option) for assignment in assignments)
    return current_names(values, announce=True)


def _parse_assignment(assignment: str, option: str) -> tuple[str, Any]:
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise UserError(f"{option} {assignment} has no value; write {option} {key or 'key'}=VALUE")
    try:
        return key.strip(), read_yaml(_without_comments(key.strip(), text, option))
    except UnsupportedYaml as error:
        raise UserError(f"{option} {key.strip()} {error}") from None
    except yaml.YAMLError:
        raise UserError(
            f"{option} {assignment}: {text!r} is not valid YAML; put text in quotes"
        ) from None


def _without_comments(key: str, text: str, option: str) -> str:
    """Return the text as YAML in which ` #` begins no comment, as in the path `/x/run #2`.

    A value on the command line has no comments, and YAML would drop the rest without a message.

    Raises:
        UserError: a comment follows a value that is quoted, a list or a mapping.
    """
    tokens = [token for token in yaml.scan(text) if token.start_mark.index < token.end_mark.index]
    end = tokens[-1].end_mark.index if tokens else 0
    if not text[end:].strip().startswith("#"):
        return text
    if any(not isinstance(token, yaml.ScalarToken) or not token.plain for token in tokens):
        raise UserError(
            f"{option} {key}={text} has a comment after its value; leave the comment out, or put "
            "all of the text in quotes"
        )
    return "'" + text.strip().replace("'", "''") + "'"

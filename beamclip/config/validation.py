"""Validate settings. The first error becomes one sentence that names the key."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from beamclip.config.errors import UserError, close_names, listed, nearest
from beamclip.config.experiment import Experiment
from beamclip.config.overrides import known_keys
from beamclip.config.renamed import current_names

Model = TypeVar("Model", bound=BaseModel)

_EXPECTED = {
    "tuple_type": "a list, such as [1, 2]",
    "dict_type": "a mapping, such as {name: 1}",
    "model_type": "its settings, such as {key: 1}",
    "model_attributes_type": "its values in a script as choice(1, 2) or uniform(0, 1)",
}
"""Advice by type of pydantic's error; its own messages speak of tuples and dictionaries."""


def validate(model: type[Model], tree: Mapping[str, Any]) -> Model:
    """Build a model from a tree of settings.

    Args:
        model: `Experiment`, `Sweep` or one of their sections.
        tree: JSON values. Old names of an experiment's settings are accepted.

    Raises:
        UserError: a setting is wrong. The message is one sentence about the first error.
    """
    if model is Experiment:
        tree = current_names(tree)
    # From JSON, strict validation accepts a list for a tuple; from Python objects it does not.
    # `default=str`: YAML has values that JSON lacks, for example `!!binary`.
    text = json.dumps(tree, default=str)
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise UserError(describe_errors(model, error)) from None


def describe_errors(model: type[BaseModel], error: ValidationError) -> str:
    """Return a sentence about the first error, with the number of the others.

    Args:
        model: the model that was not built.
        error: what pydantic raised.
    """
    first = error.errors(include_url=False)[0]
    others = error.error_count() - 1
    more = f" ({others} more)" if others else ""
    return f"{_sentence(model, first)}{more}"


def _sentence(model: type[BaseModel], error: ErrorDetails) -> str:
    """Return a sentence: which key is wrong, why, and what to write instead."""
    key = ".".join(str(part) for part in error["loc"])
    kind, value = error["type"], error["input"]
    context: Mapping[str, Any] = error.get("ctx", {})
    # Unknown keys.
    if kind == "extra_forbidden":
        keys = known_keys(model)
        # A single key of the tree that is itself a dotted key, as in a YAML file `data.path: DIR`.
        if "." in str(error["loc"][-1]) and key in keys:
            return (
                f"{key} is written with dots, which is for the command line; "
                f"write it nested: {_nested(key)}"
            )
        # In `storag: {path: DIR}`, the names in the section tell what is meant.
        meant = _keys_of_section(key, value, keys) if isinstance(value, Mapping) else []
        return f"{key} is not a setting{_did_you_mean(meant) or _nearest_key(key, keys)}"
    # Wrong values, in our own words where pydantic's are not those of users.
    if kind == "literal_error":
        # pydantic gives the options as text: 'a', 'b' or 'c'.
        listed = context["expected"].replace(" or ", ",").split(",")
        options = [option.strip(" '") for option in listed]
        return f"{key} can't be {value!r}{nearest(str(value), options)}"
    if kind == "too_short":
        return (
            f"{key} has {context['actual_length']} values, "
            f"but needs {context['min_length']} or more"
        )
    if kind == "missing":
        return f"{key} is not given and has no default"
    if kind in _EXPECTED:
        return f"{key} is {value!r}; write {_EXPECTED[kind]}"
    message = error["msg"].removeprefix("Value error, ")
    # Messages of our own validators are sentences already.
    if kind == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key} is {value!r}: {message[0].lower()}{message[1:]}"


def _nested(key: str) -> str:
    """Return a dotted key as nested YAML: `a.b` -> `a: {b: …}`."""
    section, _, rest = key.partition(".")
    return f"{section}: {{{_nested(rest)}}}" if rest else f"{section}: …"


def _nearest_key(key: str, keys: Iterable[str]) -> str:
    """Return the end of a sentence that suggests keys.

    These are the keys with the same last part: `lr` suggests `optimizer.lr`. If there are none,
    they are the keys of the same section with a similar last part, or all of them if they are few.
    Without a section they are similar keys of any section.
    """
    known = list(keys)
    section, _, leaf = key.rpartition(".")
    siblings = [other for other in known if _section(other) == section]
    # Only last parts are compared: as a whole, keys of one section are all similar.
    suggested = _keys_with_leaves([leaf], known) or _similar_leaf(leaf, siblings)
    if not section:
        suggested = suggested or _similar_leaf(leaf, known)
    if suggested:
        return _did_you_mean(suggested)
    # A misspelled section is similar to the keys in it.
    return listed(siblings) if section else nearest(key, known)


def _keys_of_section(section: str, settings: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Return the keys that may be meant by the settings in an unknown section.

    These are the keys with the same last parts in a similar section, or in any section. If there
    are none, they are the keys of the similar section, if possible with similar last parts.
    """
    similar = close_names(section, {_section(key) for key in keys if "." in key}, count=1)
    siblings = [key for key in keys if _section(key) in similar]
    leaves = [str(name) for name in settings]
    exact = _keys_with_leaves(leaves, siblings) or _keys_with_leaves(leaves, keys)
    near = [key for leaf in leaves for key in _similar_leaf(leaf, siblings)]
    return exact or near or siblings


def _did_you_mean(keys: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(keys[:3])}?" if keys else ""


def _section(key: str) -> str:
    return key.rpartition(".")[0]


def _similar_leaf(leaf: str, keys: Sequence[str]) -> list[str]:
    return _keys_with_leaves(close_names(leaf, {_leaf(key) for key in keys}), keys)


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _keys_with_leaves(leaves: Iterable[str], keys: Sequence[str]) -> list[str]:
    """Return the keys with one of these last parts, in the order of `leaves`."""
    return [key for leaf in leaves for key in keys if _leaf(key) == leaf]

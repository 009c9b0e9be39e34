"""From a preset and `--set key=value` to a checked experiment."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from beamclip.config.errors import UserError, nearest
from beamclip.config.experiment import Experiment

# YAML as people mean it: `1e-3` is a number, where YAML 1.1 sees text, and `2026-11-26` a folder's name, where it sees a date.


_TIMESTAMP, _FLOAT = "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float"


class NotPlain(yaml.YAMLError):
    """YAML that no settings can be read from. The message goes on from the name of the file: `has the key …`."""


class _Plain(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As YAML's, which takes the last of two equal keys and drops the first without a word."""
        node = super().compose_mapping_node(anchor)
        keys = set[tuple[str, str]]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    raise NotPlain(
                        f"has the key {key.value} a second time in line {key.start_mark.line + 1}; keep one of the two"
                    )
                keys.add((key.tag, key.value))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As YAML's, whose readers of numbers and dates stumble over what only looks like one."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, AttributeError, LookupError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            text = f"has {str(node.value)[:40]!r} in line {node.start_mark.line + 1}, which is no {kind}; quote it if it is text"
            raise NotPlain(text) from None


_Plain.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != _TIMESTAMP]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Plain.add_implicit_resolver(
    _FLOAT, re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(text: str) -> Any:
    """The value that a text holds; plain values only.

    Raises:
        yaml.YAMLError: it is not YAML, or `NotPlain`.
    """
    try:
        value = yaml.load(text, Loader=_Plain)
        _check_plain(value, (), set())
        return value
    except RecursionError:
        raise NotPlain(
            "is nested too deep; settings are at most a few levels below one another"
        ) from None


def _check_plain(value: Any, above: tuple[int, ...], seen: set[int]) -> None:
    """Refuse what YAML can hold and JSON can't: keys that are no words or numbers, and what holds itself by an alias."""
    if not isinstance(value, dict | list) or (id(value) in seen and id(value) not in above):
        return
    if id(value) in above:
        raise NotPlain("has an alias (*) inside of what it stands for; write the value out")
    seen.add(id(value))
    for key in value if isinstance(value, dict) else ():
        if key is not None and not isinstance(key, str | int | float):
            raise NotPlain(f"has {key!r} as a key; write a word")
    for part in value.values() if isinstance(value, dict) else value:
        _check_plain(part, (*above, id(value)), seen)


# Dotted keys: the form settings have on the command line, in a search space and in MLflow.


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
        flat.update(
            flatten(value, f"{key}.") if isinstance(value, Mapping) and value else {key: value}
        )
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
        if (
            isinstance(below, Mapping)
            and isinstance(value, Mapping)
            and (value or _is_model(inner))
        ):
            value = merge(below, value, inner)
        merged[name] = value
    return merged


def assign(tree: Mapping[str, Any], values: Mapping[str, Any]) -> Tree:
    """Set dotted keys in a copy of an experiment's tree.

    No check here: `validate` names an unknown key with its nearest neighbour.
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


def validate(model: type[Model], tree: Mapping[str, Any]) -> Model:
    """Validate a tree.

    Raises:
        UserError: one sentence about the first thing that is wrong.
    """
    try:
        return model.model_validate_json(
            json.dumps(tree, default=str)
        )  # YAML can be made to hold more than JSON, `!!binary` for one
    except ValidationError as error:
        raise UserError(_sentence(model, error)) from None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _sentence(model: type[BaseModel], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if (
        first["type"] == "extra_forbidden"
        and "." in str(first["loc"][-1])
        and key in known_keys(model)
    ):
        return f"{key} is written with dots, which is for the command line; write it nested: {_nested(key)}{more}"
    if first["type"] == "extra_forbidden":
        return f"{key} is not a setting{_near_key(key, known_keys(model))}{more}"
    if first["type"] == "literal_error":
        options = [
            option.strip(" '")
            for option in first["ctx"]["expected"].replace(" or ", ",").split(",")
        ]
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
    return (
        nearest(key, siblings)
        if nearest(key, siblings).startswith("; did")
        else nearest(key, known)
    )


def preset_names() -> list[str]:
    """The presets that come with the package."""
    files = resources.files("beamclip.config.presets").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def read_preset(name: str) -> Tree:
    """A preset by name, or any YAML file by path.

    Raises:
        UserError: there is no such preset or file, or it is not a YAML mapping.
    """
    if name.endswith((".yaml", ".yml")):
        return _read_yaml(Path(name))
    if name not in preset_names():
        raise UserError(f"preset {name} does not exist{nearest(name, preset_names())}")
    text = (
        resources.files("beamclip.config.presets")
        .joinpath(f"{name}.yaml")
        .read_text(encoding="utf-8")
    )
    return dict(read_yaml(text))


def _read_yaml(path: Path) -> Tree:
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"preset {path} can't be read ({error.strerror}); give a preset's name or a YAML file"
        ) from None
    except NotPlain as error:
        raise UserError(f"{path} {error}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} can't be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold settings as `key: value`, like the built-in presets")
    return tree


def parse_assignments(assignments: Sequence[str], option: str = "--set") -> Tree:
    """`["optimiser.lr=1e-3"]` -> `{"optimiser.lr": 0.001}`. Values are YAML, so lists are written `[1, 2]`.

    Raises:
        UserError: an item has no `=` or its value is not YAML.
    """
    return dict(_parse_assignment(item, option) for item in assignments)


def _parse_assignment(item: str, option: str) -> tuple[str, Any]:
    key, equals, text = item.partition("=")
    if not equals or not key.strip():
        raise UserError(f"{option} {item} has no value; write {option} {key or 'key'}=VALUE")
    try:
        return key.strip(), read_yaml(text)
    except NotPlain as error:
        raise UserError(f"{option} {key.strip()} {error}") from None
    except yaml.YAMLError:
        raise UserError(
            f"{option} {item}: {text!r} is not a value; quote it as YAML would"
        ) from None


def load_experiment(preset: str, values: Mapping[str, Any] | None = None) -> Experiment:
    """Preset, then dotted values over it, then all checks.

    Raises:
        UserError: as one sentence, naming the key.
    """
    return validate(Experiment, assign(read_preset(preset), values or {}))


def with_values(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """A copy with dotted keys set, checked again as a whole."""
    return validate(Experiment, assign(experiment.model_dump(mode="json"), values))

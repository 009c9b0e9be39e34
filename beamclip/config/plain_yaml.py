"""YAML for settings: plain values only, and what is ambiguous is refused.

Differences from PyYAML's safe loader: `1e-3` is a number and `2026-11-26` is text, as people
expect; a repeated key, a merge key (`<<`) and a value that doesn't fit its tag are errors that
name the line. Merge keys are refused because their meaning depends on the version of PyYAML: 6.0.3
and 6.0.4 differ where a merge overrides another merge. Anchors and aliases (`&`, `*`) work.

Why not OmegaConf, which reads `1e-3` too: it parses `${` in any text and fails on a value such as
`price: 5 ${`, its errors name no line, and its merge can't empty a mapping with `{}`, which
`--set anchors.senses={}` does.
"""

import re
from typing import Any

import yaml

_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_FLOAT = "tag:yaml.org,2002:float"
_MERGE = "tag:yaml.org,2002:merge"
_EXPONENT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")


class UnsupportedYaml(yaml.YAMLError):
    """YAML that settings can't be read from.

    The message continues a sentence that starts with the file's name: `has the key …`.
    """


class _PlainLoader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping, refusing merge keys and repeated keys.

        PyYAML keeps the last of several equal keys without a warning.
        """
        node = super().compose_mapping_node(anchor)
        keys: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.tag == _MERGE:
                raise UnsupportedYaml(
                    f"has a merge key (<<) in line {line}, which is not supported; "
                    "write its settings out"
                )
            if (key.tag, key.value) in keys:
                raise UnsupportedYaml(
                    f"has the key {key.value} a second time in line {line}; keep one of the two"
                )
            keys.add((key.tag, key.value))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a value; raise UnsupportedYaml if it doesn't fit its tag, such as `0x_`."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, AttributeError, LookupError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            text = str(node.value)[:40]
            line = node.start_mark.line + 1
            raise UnsupportedYaml(
                f"has {text!r} in line {line}, which is no {kind}; quote it if it is text"
            ) from None


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainLoader.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))


def read_yaml(text: str) -> Any:
    """Return the value of a YAML text: mappings, lists, numbers, text, booleans or None.

    Raises:
        yaml.YAMLError: the text is not YAML.
        UnsupportedYaml: it is YAML that settings can't be read from.
    """
    try:
        value = yaml.load(text, Loader=_PlainLoader)
        _check_plain(value, (), set())
    except RecursionError:
        raise UnsupportedYaml(
            "is nested too deep; settings are at most a few levels below one another"
        ) from None
    return value


def _check_plain(value: Any, parents: tuple[int, ...], checked: set[int]) -> None:
    """Refuse what JSON can't hold: keys of other types, and a value that contains itself.

    Args:
        value: a part of what was read.
        parents: ids of the containers around it.
        checked: ids of all containers seen so far; one that many aliases share is checked once.
    """
    if not isinstance(value, dict | list):
        return
    if id(value) in parents:
        raise UnsupportedYaml("has an alias (*) inside of what it stands for; write the value out")
    if id(value) in checked:
        return
    checked.add(id(value))
    if isinstance(value, dict):
        for key in value:
            if key is not None and not isinstance(key, str | int | float):
                raise UnsupportedYaml(f"has {key!r} as a key; write a word")
    parts = value.values() if isinstance(value, dict) else value
    for part in parts:
        _check_plain(part, (*parents, id(value)), checked)

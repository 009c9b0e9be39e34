"""YAML as people mean it: `1e-3` is a number, where YAML 1.1 sees text, and `2026-11-26` a folder's name, where it sees a date."""

import re
from typing import Any

import yaml

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
                    raise NotPlain(f"has the key {key.value} a second time in line {key.start_mark.line + 1}; keep one of the two")
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
_Plain.add_implicit_resolver(_FLOAT, re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


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
        raise NotPlain("is nested too deep; settings are at most a few levels below one another") from None


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

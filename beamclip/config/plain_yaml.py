"""Read YAML with settings: plain values only, and errors for anything ambiguous.

Differences from PyYAML's safe loader:

- `1e-3` is a number and `2026-11-26` is text, as people expect.
- A repeated key, a merge key (`<<`) and a value that doesn't fit its tag are errors that name the
  line. Merge keys are errors because their meaning depends on the version of PyYAML: 6.0.3 and
  6.0.4 differ where a merge overrides another merge. Anchors and aliases (`&`, `*`) work.

Why not OmegaConf, which reads `1e-3` too? It parses `${` in any text and fails on a value such as
`price: 5 ${`. Its errors name no line. And it can't empty a mapping, as
`--set anchors.senses={}` does here.
"""

import re
from typing import Any

import yaml

_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_FLOAT = "tag:yaml.org,2002:float"
_MERGE = "tag:yaml.org,2002:merge"
_EXPONENT = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
"""Numbers such as `1e-3`, which PyYAML reads as text: YAML 1.1 wants a dot, `1.0e-3`."""


class UnsupportedYaml(yaml.YAMLError):
    """Valid YAML that beamclip doesn't accept for settings.

    The message continues a sentence that starts with the name of the file or option: `has the key
    …`.
    """


class _PlainLoader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping. Raise UnsupportedYaml for merge keys and repeated keys.

        PyYAML would keep the last of several equal keys without a warning.
        """
        node = super().compose_mapping_node(anchor)
        # Tag and text: `1` and `"1"` are different keys.
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
        """Construct a value. Raise UnsupportedYaml if it doesn't fit its tag, such as `0x_`."""
        try:
            return super().construct_object(node, deep)
        # What PyYAML's constructors of int, bool and timestamp raise for a text they can't convert.
        except (ValueError, AttributeError, LookupError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            text = str(node.value)[:40]
            line = node.start_mark.line + 1
            raise UnsupportedYaml(
                f"has {text!r} in line {line}, which is not a valid {kind}; quote it if it is text"
            ) from None


# Without its resolver, a date such as 2026-11-26 stays text.
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainLoader.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))


def read_yaml(text: str) -> Any:
    """Return the value of a YAML text: mappings, lists, numbers, text, booleans or None.

    Raises:
        yaml.YAMLError: the text is not YAML.
        UnsupportedYaml: it is YAML, but not accepted for settings.
    """
    try:
        value = yaml.load(text, Loader=_PlainLoader)
        _check_plain(value, (), set())
    # Both PyYAML and `_check_plain` go into nested values by recursion.
    except RecursionError:
        raise UnsupportedYaml("is nested too deeply; settings have only a few levels") from None
    return value


def _check_plain(value: Any, parents: tuple[int, ...], checked: set[int]) -> None:
    """Raise UnsupportedYaml for values that JSON can't represent.

    These are mapping keys other than text, numbers and null, and values that contain themselves.

    Args:
        value: a value in the YAML text, or all of it.
        parents: ids of the lists and mappings around the value.
        checked: ids of the lists and mappings checked so far. A value with many aliases is checked
            once, or aliases of aliases would take exponential time.
    """
    if not isinstance(value, dict | list):
        return
    if id(value) in parents:
        raise UnsupportedYaml("has an alias (*) inside the value it refers to; write the value out")
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

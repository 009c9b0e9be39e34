"""YAML as people mean it: `1e-3` is a number, where YAML 1.1 sees text, and `2026-11-26` a folder's name, where it sees a date."""

import re
from typing import Any

import yaml

_TIMESTAMP, _FLOAT = "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float"


class _Plain(yaml.SafeLoader):
    pass


_Plain.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != _TIMESTAMP]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Plain.add_implicit_resolver(_FLOAT, re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def read_yaml(text: str) -> Any:
    """The value that a text holds; plain values only.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    return yaml.load(text, Loader=_Plain)

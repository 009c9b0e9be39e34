"""The reference of all settings, written from the models themselves: `python -m beamclip.config.reference > docs/configuration.md`."""

import re
from typing import Any

from pydantic import BaseModel

from beamclip.config.experiment import Experiment
from beamclip.config.load import preset_names
from beamclip.config.views import RECIPES, Recipe

_HEAD = """# Settings

A preset ({presets}, or a YAML file of yours), then `--set key=value` over it, as often as needed. Values are YAML: `null`, `[0.1, 1]`.
Unknown keys, wrong types and impossible combinations are found before anything starts. This page is written by
`python -m beamclip.config.reference`.
"""


def reference() -> str:
    """The page, as Markdown."""
    sections = [_HEAD.format(presets=", ".join(f"`{name}`" for name in preset_names()))]
    for name, field in Experiment.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            sections.append(f"## {name}\n\n{_first(field.annotation)}\n\n{_table(field.annotation, f'{name}.')}")
        else:
            sections.insert(1, f"`{name}` (default `{field.default}`) seeds the student's weights and the order of samples.\n")
    recipes = ", ".join(f"`{name}`" for name in RECIPES)
    sections.append(f"## A recipe\n\nBuilt in: {recipes}. Your own go under `views.custom`.\n\n{_table(Recipe, '')}")
    return "\n".join(sections)


def _first(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def _table(model: type[BaseModel], prefix: str) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        meaning = " ".join((field.description or "").split())
        rows.append(f"| `{prefix}{name}` | {_type(field.annotation)} | `{_default(field.default)}` | {meaning} |")
    return "\n".join(rows) + "\n"


def _type(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) and "[" not in str(annotation) else str(annotation)
    text = re.sub(r"typing\.|annotated_types\.|Annotated\[(\w+), [^\]]*\]+\)?\]?", lambda match: match.group(1) or "", text)
    options = re.fullmatch(r"Literal\[(.*)\]", text)
    plain = ", ".join(f"`{option}`" for option in re.findall(r"'([^']*)'", options[1])) if options else text
    return plain.replace("|", "or").replace("beamclip.config.views.", "")


def _default(value: Any) -> str:
    return "null" if value is None else str(list(value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    print(reference(), end="")

"""Write the page of all settings from the models themselves.

python -m beamclip.config.reference > docs/configuration.md
"""

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from beamclip.config.anchors import PromptSet, built_in_prompt_sets
from beamclip.config.experiment import Experiment
from beamclip.config.load import preset_names
from beamclip.config.overrides import is_model
from beamclip.config.views import RECIPES, Recipe

_HEAD = """# Settings

All settings, with their types, defaults and meaning. Any of them can be set on the command line:

```
python sweeps/csm_temp.py --preset cifar10 --data DIR --set optimizer.epochs=20
```

Settings are a preset ({presets}, or your YAML file), and `--set key=value` on top, as often as
needed. Values are YAML: `null`, `[0.1, 1]`. Unknown keys, wrong types and impossible combinations
are found before anything starts. `python -m beamclip.config.reference` writes this page.
"""


def reference() -> str:
    """Return the page as Markdown."""
    sections = [_HEAD.format(presets=", ".join(f"`{name}`" for name in preset_names()))]
    for name, field in Experiment.model_fields.items():
        if is_model(field.annotation):
            sections += _sections(field.annotation, name, "##")
        else:
            text = f"`{name}` (default `{field.default}`) seeds the student's weights and the order"
            sections.insert(1, f"{text} of samples.\n")
    sections.append(_definition("A recipe", Recipe, RECIPES, "views.custom"))
    prompt_sets = built_in_prompt_sets()
    sections.append(_definition("A prompt set", PromptSet, prompt_sets, "anchors.custom"))
    return "\n".join(sections)


def _sections(model: type[BaseModel], key: str, mark: str) -> list[str]:
    """Return a model's table, then those of the models in it."""
    sections = [f"{mark} {key}\n\n{_first_line(model)}\n\n{_table(model, f'{key}.')}"]
    for name, field in model.model_fields.items():
        if is_model(field.annotation):
            sections += _sections(field.annotation, f"{key}.{name}", f"{mark}#")
    return sections


def _definition(title: str, model: type[BaseModel], built_in: Iterable[str], key: str) -> str:
    """Return the section of something that users may define under a name."""
    names = ", ".join(f"`{name}`" for name in built_in)
    text = f"{_first_line(model)} Built in: {names}. Your own go under `{key}`."
    return f"## {title}\n\n{text}\n\n{_table(model, '')}"


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def _table(model: type[BaseModel], prefix: str) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        # A section has a table of its own.
        if is_model(field.annotation):
            continue
        kind = _type(field.annotation)
        default = _default(field.default)
        meaning = " ".join((field.description or "").split())
        rows.append(f"| `{prefix}{name}` | {kind} | `{default}` | {meaning} |")
    return "\n".join(rows) + "\n"


def _type(annotation: Any) -> str:
    """Return a type for readers: without modules and bounds."""
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{option}`" for option in arguments)
    if origin in (Union, UnionType):
        return " or ".join(map(_type, arguments))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(_type, arguments))}]"
    return {NoneType: "None", Ellipsis: "..."}.get(annotation) or str(annotation.__name__)


def _default(value: Any) -> str:
    if value is None:
        return "null"
    return str(list(value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    print(reference(), end="")

"""Write the page of all settings from the models themselves.

python -m beamclip.config.reference > docs/configuration.md
"""

import ast
import inspect
import textwrap
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from beamclip.config.anchors import PromptSet, built_in_prompt_sets
from beamclip.config.base import field_texts
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
    """Return the page of all settings as Markdown."""
    sections = [_HEAD.format(presets=", ".join(f"`{name}`" for name in preset_names()))]
    for name, field in Experiment.model_fields.items():
        if is_model(field.annotation):
            sections += _sections(field.annotation, name, "##")
        else:
            # `seed` is the only setting outside the sections. It goes right below the head.
            text = (
                f"`{name}` (default `{field.default}`) seeds the student's weights "
                "and the order of samples.\n"
            )
            sections.insert(1, text)
    sections.append(_definition("A recipe", Recipe, RECIPES, "views.custom"))
    prompt_sets = built_in_prompt_sets()
    sections.append(_definition("A prompt set", PromptSet, prompt_sets, "anchors.custom"))
    return "\n".join(sections)


def _sections(model: type[BaseModel], key: str, heading: str) -> list[str]:
    """Return the section of a model, then those of the models in its fields, also in lists.

    Args:
        model: the model of these settings.
        key: its dotted key.
        heading: the Markdown mark of its heading; `##` for the second level.
    """
    sections = [f"{heading} {key}\n\n{_first_line(model)}\n\n{_table(model, f'{key}.')}"]
    for name, field in model.model_fields.items():
        if is_model(field.annotation):
            sections += _sections(field.annotation, f"{key}.{name}", f"{heading}#")
        element = next(iter(get_args(field.annotation)), None)
        if get_origin(field.annotation) is tuple and is_model(element):
            text = f"{_first_line(element)} Each entry of the list has these settings."
            sections.append(f"{heading}# {key}.{name}\n\n{text}\n\n{_table(element, '')}")
    return sections


def _definition(title: str, model: type[BaseModel], built_in: Iterable[str], key: str) -> str:
    """Return the section of a model that users may define instances of, such as a recipe.

    Args:
        title: heading of the section.
        model: the model.
        built_in: names of the built-in instances.
        key: the setting that holds the user's instances, by name.
    """
    names = ", ".join(f"`{name}`" for name in built_in)
    text = f"{_first_line(model)} Built in: {names}. Your own go under `{key}`."
    return f"## {title}\n\n{text}\n\n{_table(model, '')}"


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def model_texts(model: type[BaseModel]) -> dict[str, str]:
    """Return the texts below the fields of a model, by field name.

    The models that are read from the declarations of objectives have no source to look up. Their
    fields have descriptions instead.
    """
    texts: dict[str, str] = {}
    # Base classes first, so that a class's own text replaces that of its base.
    for base in reversed(model.__mro__):
        if not issubclass(base, BaseModel):
            continue
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError):
            continue
        for node in ast.parse(textwrap.dedent(source)).body:
            if isinstance(node, ast.ClassDef):
                texts |= field_texts(node)
    return texts


def _table(model: type[BaseModel], prefix: str) -> str:
    texts = model_texts(model)
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        # Sections have their own tables.
        if is_model(field.annotation):
            continue
        kind = _type(field.annotation)
        default = _default(field.default)
        # A table cell is one line.
        meaning = " ".join((field.description or texts.get(name, "")).split())
        rows.append(f"| `{prefix}{name}` | {kind} | `{default}` | {meaning} |")
    return "\n".join(rows) + "\n"


def _type(annotation: Any) -> str:
    """Return the Markdown of a type, without module names and bounds."""
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
    if annotation is NoneType:
        return "None"
    # The end of `tuple[X, ...]`.
    if annotation is Ellipsis:
        return "..."
    return str(annotation.__name__)


def _default(value: Any) -> str:
    if value is None:
        return "null"
    # As users write it in YAML: a list, no tuple.
    return str(list(value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    print(reference(), end="")

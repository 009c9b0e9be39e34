"""The reference of all settings, written from the models themselves: `python -m beamclip.config.reference > docs/configuration.md`."""

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel

from beamclip.config.anchors import PromptSet, built_in_prompt_sets
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
        if _is_model(field.annotation):
            sections += _sections(field.annotation, name, "##")
        else:
            sections.insert(
                1,
                f"`{name}` (default `{field.default}`) seeds the student's weights and the order of samples.\n",
            )
    sections.append(_definition("A recipe", Recipe, RECIPES, "views.custom"))
    sections.append(
        _definition("A prompt set", PromptSet, built_in_prompt_sets(), "anchors.custom")
    )
    return "\n".join(sections)


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _sections(model: type[BaseModel], key: str, mark: str) -> list[str]:
    """A model's table, then those of the models in it."""
    inner = {
        name: field.annotation
        for name, field in model.model_fields.items()
        if _is_model(field.annotation)
    }
    sections = [f"{mark} {key}\n\n{_first(model)}\n\n{_table(model, f'{key}.')}"]
    for name, annotation in inner.items():
        sections += _sections(annotation, f"{key}.{name}", f"{mark}#")
    return sections


def _definition(title: str, model: type[BaseModel], built_in: Iterable[str], key: str) -> str:
    """What a user may define and then name."""
    names = ", ".join(f"`{name}`" for name in built_in)
    return f"## {title}\n\n{_first(model)} Built in: {names}. Your own go under `{key}`.\n\n{_table(model, '')}"


def _first(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def _table(model: type[BaseModel], prefix: str) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if _is_model(field.annotation):
            continue  # has a table of its own
        meaning = " ".join((field.description or "").split())
        rows.append(
            f"| `{prefix}{name}` | {_type(field.annotation)} | `{_default(field.default)}` | {meaning} |"
        )
    return "\n".join(rows) + "\n"


def _type(annotation: Any) -> str:
    """For people: without modules and bounds."""
    origin, arguments = get_origin(annotation), get_args(annotation)
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
    return "null" if value is None else str(list(value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    print(reference(), end="")

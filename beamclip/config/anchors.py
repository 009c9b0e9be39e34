"""Settings of anchors, and prompt sets, which turn class names and senses into sentences."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from string import Formatter
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from beamclip.config.base import Strict
from beamclip.config.errors import nearest

FIELDS = ("name", "synonym", "hypernym", "gloss", "context")
"""Fields that phrases may contain. Templates may contain all of them except `synonym`."""
JOIN = "+"
"""Joins the names of prompt sets into an ensemble: `openai_7+gloss`."""
_OPENAI = ("openai_7", "openai_80")
"""Names of CLIP's own template lists, which open_clip contains."""


class PromptSet(Strict):
    """Sentences for each class: every phrase of `names` in every template."""

    templates: tuple[str, ...] | Literal["openai_7", "openai_80"] = Field(
        ("a photo of a {name}.",), min_length=1
    )
    """Sentences around `{name}`, or CLIP's own 7 or 80."""
    names: tuple[str, ...] = Field(("{name}",), min_length=1)
    """Phrases that name the class, with `{name}` or `{synonym}` and any of `{hypernym}`, `{gloss}`,
    `{context}`."""
    of: tuple[str, ...] = ()
    """An ensemble: the names of other prompt sets. Each makes its own anchor; the ensemble's anchor
    is their normalized mean. A member that is an ensemble counts as its members. Can't be combined
    with the other keys."""

    @field_validator("templates", mode="before")
    @classmethod
    def _check_templates_are_a_list(cls, templates: Any) -> Any:
        if isinstance(templates, str) and templates not in _OPENAI:
            raise ValueError(
                f"{templates!r} is neither a list of sentences nor {' nor '.join(_OPENAI)}; "
                f"write [{templates!r}] for one sentence"
            )
        # pydantic validates the result as a Python object, and strict mode then needs a tuple.
        return tuple(templates) if isinstance(templates, list) else templates

    @field_validator("templates")
    @classmethod
    def _check_template_fields(cls, templates: tuple[str, ...] | str) -> tuple[str, ...] | str:
        if isinstance(templates, str):
            return templates
        for template in templates:
            fields = _fields(template)
            if "name" not in fields:
                raise ValueError(
                    f"template {template!r} has no {{name}}, so all classes would get the same "
                    "prompt; add it"
                )
            if "synonym" in fields:
                raise ValueError(
                    f"template {template!r} has {{synonym}}, which goes into names; "
                    "write {name} for the phrase made there"
                )
        return templates

    @field_validator("names")
    @classmethod
    def _check_phrase_fields(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for phrase in names:
            if not {"name", "synonym"} & _fields(phrase):
                raise ValueError(f"phrase {phrase!r} has neither {{name}} nor {{synonym}}; add one")
        return names

    @model_validator(mode="after")
    def _check_one_kind(self) -> "PromptSet":
        # Not by `model_fields_set`: a saved experiment sets all fields when it is loaded.
        templates = PromptSet.model_fields["templates"].default
        names = PromptSet.model_fields["names"].default
        if self.of and (self.templates, self.names) != (templates, names):
            raise ValueError(
                "of makes an ensemble of other prompt sets; drop either of, or templates and names"
            )
        return self


def _fields(text: str) -> set[str]:
    """Return the names of the fields in a template or phrase.

    Raises:
        ValueError: a field is unknown or has a format, or braces don't pair.
    """
    names: set[str] = set()
    try:
        parts = list(Formatter().parse(text))
    except ValueError:
        raise ValueError(f"{text!r} has braces that don't pair; write fields as {{name}}") from None
    for _, field, format_spec, conversion in parts:
        # Text without a field behind it.
        if field is None:
            continue
        if format_spec or conversion:
            raise ValueError(
                f"{text!r} has a field with a format, which names don't need; "
                "write fields as {name}"
            )
        names.add(field)
    unknown = sorted(names - set(FIELDS))
    if unknown:
        raise ValueError(
            f"{text!r} has the unknown field {{{unknown[0]}}}{nearest(unknown[0], FIELDS)}"
        )
    return names


@cache
def built_in_prompt_sets() -> Mapping[str, PromptSet]:
    """Return the prompt sets of `prompt_sets.yaml`, by name."""
    file = resources.files("beamclip.config").joinpath("prompt_sets.yaml")
    definitions = yaml.safe_load(file.read_text(encoding="utf-8"))
    # Not strict, since YAML has lists where the fields are tuples.
    return {
        name: PromptSet.model_validate(definition, strict=False)
        for name, definition in definitions.items()
    }


def members_of(name: str, custom: Mapping[str, PromptSet]) -> tuple[PromptSet, ...]:
    """Return the prompt sets that a name refers to: one, or the members of an ensemble.

    Args:
        name: a built-in or custom prompt set, or several joined by `+`.
        custom: the user's own prompt sets by name.

    Raises:
        ValueError: there is no such prompt set, or an ensemble contains itself.
    """
    return _members(name, {**built_in_prompt_sets(), **custom}, ())


def _members(
    name: str, prompt_sets: Mapping[str, PromptSet], parents: tuple[str, ...]
) -> tuple[PromptSet, ...]:
    """Return the members of a prompt set by recursion.

    Args:
        name: a prompt set, or several joined by `+`.
        prompt_sets: all prompt sets by name.
        parents: the ensembles that contain this one, outermost first.
    """
    if name in parents:
        path = " -> ".join((*parents, name))
        raise ValueError(f"prompt set {name} contains itself ({path}); break the cycle")
    if name in prompt_sets:
        member_names = list(prompt_sets[name].of)
        if not member_names:
            return (prompt_sets[name],)
    else:
        member_names = [member.strip() for member in name.split(JOIN)]
        if len(member_names) == 1:
            raise ValueError(
                f"prompt set {name or repr(name)} does not exist{nearest(name, prompt_sets)}"
            )
    members: list[PromptSet] = []
    for member in member_names:
        members += _members(member, prompt_sets, (*parents, name))
    return tuple(members)


class AnchorsConfig(Strict):
    """How class names become anchors."""

    prompt_set: str = "openai_7"
    """A built-in prompt set, one of `custom`, or several joined by `+` (the mean of their
    anchors)."""
    custom: dict[str, PromptSet] = {}
    """Your own prompt sets by name; `prompt_set` may then name them."""
    vocabulary: str = "data"
    """The names that become anchors: the classes of the `data`, `imagenet-1k`, `imagenet-21k`,
    `lvis`, or a text file like `data.class_names`. Zero-shot always uses the data's classes."""
    senses: dict[str, str] = {}
    """What class names mean, `{crane: n02012849}`: a WordNet id, or a description in your own
    words."""
    strict_senses: bool = False
    """Stop if a class name has several senses and neither you nor the data says which is meant."""
    count: Annotated[int, Field(ge=2)] | None = None
    """Use only the first `count` anchors; default all."""

    @field_validator("custom")
    @classmethod
    def _check_custom_names(cls, custom: dict[str, PromptSet]) -> dict[str, PromptSet]:
        for name in sorted(custom):
            if name in built_in_prompt_sets():
                raise ValueError(
                    f"{name} is the name of a built-in prompt set; choose another name"
                )
            if not name.strip() or JOIN in name:
                raise ValueError(f"{name!r} can't name a prompt set; use letters, digits and _")
        return custom

    @model_validator(mode="after")
    def _check_prompt_sets_exist(self) -> "AnchorsConfig":
        for name in (self.prompt_set, *self.custom):
            self.members(name)
        return self

    def members(self, name: str | None = None) -> tuple[PromptSet, ...]:
        """Return the prompt sets that a name refers to: one, or the members of an ensemble.

        Args:
            name: a prompt set, or several joined by `+`; default the setting `prompt_set`.

        Raises:
            ValueError: there is no such prompt set, or an ensemble contains itself.
        """
        return members_of(self.prompt_set if name is None else name, self.custom)

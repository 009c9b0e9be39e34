"""Settings of anchors, and prompt sets: how class names and senses become sentences."""

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
"""Fields of phrases. Templates may use all but `synonym`."""
JOIN = "+"
"""Joins prompt sets to an ensemble: `openai_7+gloss`."""
_OPENAI = ("openai_7", "openai_80")


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
    """An ensemble of other prompt sets: each makes its own anchor, and the normalized mean of them
    is the anchor of this one. An ensemble inside counts as its members. Excludes the other keys."""

    @field_validator("templates", mode="before")
    @classmethod
    def _check_templates_are_a_list(cls, templates: Any) -> Any:
        if isinstance(templates, str) and templates not in _OPENAI:
            raise ValueError(
                f"{templates!r} is neither a list of sentences nor {' nor '.join(_OPENAI)}; "
                f"write [{templates!r}] for one sentence"
            )
        # What a before-validator returns is validated as Python, where a tuple must be a tuple.
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
        # Compared with the defaults, since a saved experiment sets all fields when it is loaded.
        templates = PromptSet.model_fields["templates"].default
        names = PromptSet.model_fields["names"].default
        if self.of and (self.templates, self.names) != (templates, names):
            raise ValueError(
                "of makes an ensemble of other prompt sets; drop templates and names, or of"
            )
        return self


def _fields(text: str) -> set[str]:
    """Return the names of the fields in a template or phrase.

    Raises:
        ValueError: a field is unknown or has a format, or braces don't pair.
    """
    try:
        parsed = [part[1:] for part in Formatter().parse(text) if part[1] is not None]
    except ValueError:
        raise ValueError(f"{text!r} has braces that don't pair; write fields as {{name}}") from None
    if any(spec or conversion for _, spec, conversion in parsed):
        raise ValueError(
            f"{text!r} has a field with a format, which names don't need; write fields as {{name}}"
        )
    names = {str(field) for field, _, _ in parsed}
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
    name: str, known: Mapping[str, PromptSet], parents: tuple[str, ...]
) -> tuple[PromptSet, ...]:
    if name in parents:
        path = " of ".join((*parents, name))
        raise ValueError(f"prompt set {name} is made of itself ({path}); break the circle")
    if name in known:
        parts = list(known[name].of)
    else:
        parts = [part.strip() for part in name.split(JOIN)]
        if len(parts) == 1:
            raise ValueError(
                f"prompt set {name or repr(name)} does not exist{nearest(name, known)}"
            )
    if not parts:
        return (known[name],)
    members: list[PromptSet] = []
    for part in parts:
        members += _members(part, known, (*parents, name))
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
    """Given senses, `{crane: n02012849}`: the WordNet id of a class name, or a description of what
    is meant."""
    strict_senses: bool = False
    """Stop if a class name has several senses and neither you nor the data gives one."""
    count: Annotated[int, Field(ge=2)] | None = None
    """Use only this many anchors, the first ones; default all."""

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
            name: of a prompt set; default `prompt_set`.

        Raises:
            ValueError: there is no such prompt set.
        """
        return members_of(self.prompt_set if name is None else name, self.custom)

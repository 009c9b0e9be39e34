"""Prompt sets: how class names and their senses become sentences, as small definitions that a user can write too."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from string import Formatter
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from beamclip.config.base import Strict
from beamclip.config.errors import nearest

FIELDS = ("name", "synonym", "hypernym", "gloss", "context")
"""What phrases may speak of; templates of all but `synonym`."""
JOIN = "+"
"""`openai_7+gloss` is an ensemble of the two."""
_OPENAI = ("openai_7", "openai_80")


class PromptSet(Strict):
    """How the words that stand for a class become sentences: every phrase of `names` in every template."""

    templates: tuple[str, ...] | Literal["openai_7", "openai_80"] = Field(
        ("a photo of a {name}.",), min_length=1
    )
    """Sentences around `{name}`, or CLIP's own 7 or 80."""
    names: tuple[str, ...] = Field(("{name}",), min_length=1)
    """Phrases that stand for the class, with `{name}` or `{synonym}` and any of `{hypernym}`, `{gloss}`, `{context}`."""
    of: tuple[str, ...] = ()
    """An ensemble of other prompt sets: each makes its anchor, and their mean, normalised, is this one's; ensembles among them count as
    their members. Needs nothing else."""

    @field_validator("templates", mode="before")
    @classmethod
    def _templates_are_a_list(cls, templates: Any) -> Any:
        if isinstance(templates, str) and templates not in _OPENAI:
            raise ValueError(
                f"{templates!r} is neither a list of sentences nor {' nor '.join(_OPENAI)}; write [{templates!r}] for one sentence"
            )
        return tuple(templates) if isinstance(templates, list) else templates  # as JSON has it

    @field_validator("templates")
    @classmethod
    def _templates_hold_the_name(cls, templates: tuple[str, ...] | str) -> tuple[str, ...] | str:
        for template in templates if isinstance(templates, tuple) else ():
            fields = _fields(template)
            if "name" not in fields:
                raise ValueError(
                    f"template {template!r} has no {{name}}, so all classes would get the same prompt; add it"
                )
            if "synonym" in fields:
                raise ValueError(
                    f"template {template!r} has {{synonym}}, which goes into names; write {{name}} for the phrase made there"
                )
        return templates

    @field_validator("names")
    @classmethod
    def _names_hold_a_name(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for phrase in names:
            if not {"name", "synonym"} & _fields(phrase):
                raise ValueError(f"phrase {phrase!r} has neither {{name}} nor {{synonym}}; add one")
        return names

    @model_validator(mode="after")
    def _is_one_kind(self) -> "PromptSet":
        own = (
            PromptSet.model_fields
        )  # as they come back from a saved experiment: set, and at their defaults
        if self.of and (self.templates, self.names) != (
            own["templates"].default,
            own["names"].default,
        ):
            raise ValueError(
                "of makes an ensemble of other prompt sets; drop templates and names, or of"
            )
        return self


def _fields(text: str) -> set[str]:
    """The fields of a template.

    Raises:
        ValueError: unknown fields, fields with a format, or braces that don't pair.
    """
    try:
        parsed = [part[1:] for part in Formatter().parse(text) if part[1] is not None]
    except ValueError:
        raise ValueError(f"{text!r} has braces that don't pair; write fields as {{name}}") from None
    if any(spec or conversion for _, spec, conversion in parsed):
        raise ValueError(
            f"{text!r} has a field with a format, which names don't need; write fields as {{name}}"
        )
    found = {str(field) for field, _, _ in parsed}
    unknown = sorted(found - set(FIELDS))
    if unknown:
        raise ValueError(
            f"{text!r} has the unknown field {{{unknown[0]}}}{nearest(unknown[0], FIELDS)}"
        )
    return found


@cache
def built_in_prompt_sets() -> Mapping[str, PromptSet]:
    """Those that come with the package, by name; `prompt_sets.yaml` beside this file defines them."""
    text = (
        resources.files("beamclip.config").joinpath("prompt_sets.yaml").read_text(encoding="utf-8")
    )
    return {
        name: PromptSet.model_validate(definition, strict=False)
        for name, definition in yaml.safe_load(text).items()
    }


def members_of(name: str, custom: Mapping[str, PromptSet]) -> tuple[PromptSet, ...]:
    """The prompt sets that a name stands for: one, or those of an ensemble.

    Args:
        name: a built-in or custom prompt set, or several joined by `+`.

    Raises:
        ValueError: there is no such prompt set (with near names), or ensembles are made of each other.
    """
    return _members(name, {**built_in_prompt_sets(), **custom}, ())


def _members(
    name: str, known: Mapping[str, PromptSet], above: tuple[str, ...]
) -> tuple[PromptSet, ...]:
    if name in above:
        raise ValueError(
            f"prompt set {name} is made of itself ({' of '.join((*above, name))}); break the circle"
        )
    if name not in known:
        parts = [part.strip() for part in name.split(JOIN)]
        if len(parts) == 1:
            raise ValueError(
                f"prompt set {name or repr(name)} does not exist{nearest(name, known)}"
            )
    else:
        parts = list(known[name].of)
    if not parts:
        return (known[name],)
    return tuple(member for part in parts for member in _members(part, known, (*above, name)))

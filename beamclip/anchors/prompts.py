"""From senses and a prompt set to the sentences that the text tower reads."""

from collections.abc import Sequence
from string import Formatter

from beamclip.anchors.senses import Sense
from beamclip.config import PromptSet, UserError

Prompts = tuple[tuple[tuple[str, ...], ...], ...]
"""Of each class, of each member of an ensemble, the sentences: [K][M][P]."""
_WITH_CONTEXT, _BARE = "{name}, {context}", "{name}"


def prompts_for(senses: Sequence[Sense], members: Sequence[PromptSet]) -> Prompts:
    """The sentences of every class.

    Args:
        members: one prompt set, or those of an ensemble.

    Raises:
        UserError: a class's name is empty.
    """
    empty = [number for number, sense in enumerate(senses) if not _spoken(sense.name)]
    if empty:
        raise UserError(
            f"class {empty[0]} has an empty name; give every class a name with data.class_names"
        )
    templates = [templates_of(member) for member in members]
    return tuple(
        tuple(_sentences(sense, member, own) for member, own in zip(members, templates, strict=True)) for sense in senses
    )  # fmt: skip


def templates_of(definition: PromptSet) -> tuple[str, ...]:
    """Its templates, CLIP's own read out of open_clip."""
    if isinstance(definition.templates, tuple):
        return definition.templates
    import open_clip

    library = {
        "openai_7": open_clip.SIMPLE_IMAGENET_TEMPLATES,
        "openai_80": open_clip.OPENAI_IMAGENET_TEMPLATES,
    }
    return tuple(template("{name}") for template in library[definition.templates])


def _sentences(sense: Sense, definition: PromptSet, templates: Sequence[str]) -> tuple[str, ...]:
    fields = fields_of(sense)
    sentences = [
        template.format_map(fields | {"name": phrase})
        for phrase in _phrases(sense, fields, definition.names)
        for template in templates
        if needed(template) <= fields.keys()
    ]
    return tuple(dict.fromkeys(sentences)) or tuple(
        f"a photo of a {phrase}." for phrase in _phrases(sense, fields, (_WITH_CONTEXT,))
    )


def _phrases(sense: Sense, fields: dict[str, str], wanted: Sequence[str]) -> list[str]:
    """The phrases whose fields are known of this class, or else the name with the user's words for it, or alone."""
    usable = [phrase for phrase in wanted if needed(phrase) - {"synonym"} <= fields.keys()]
    usable = usable or ([_WITH_CONTEXT] if "context" in fields else [_BARE])
    words = dict.fromkeys(sense.synset.lemmas if sense.synset else (fields["name"],))
    return list(
        dict.fromkeys(
            phrase.format_map(fields | {"synonym": word}) for phrase in usable for word in words
        )
    )


def speaks_of_senses(definition: PromptSet) -> bool:
    """Whether any of its sentences depends on what a class means, and not on its name alone."""
    return any(needed(text) - {"name"} for text in (*definition.names, *templates_of(definition)))


def needed(text: str) -> set[str]:
    """The fields of a phrase or template."""
    return {field for _, field, _, _ in Formatter().parse(text) if field}


def fields_of(sense: Sense) -> dict[str, str]:
    """What is known of a class, by field name."""
    context = sense.context or (f"a type of {sense.hypernym}" if sense.hypernym else None)
    gloss = sense.synset.gloss if sense.synset else sense.context
    known = {
        "name": _spoken(sense.name),
        "hypernym": sense.hypernym,
        "gloss": gloss,
        "context": context,
    }
    return {field: text for field, text in known.items() if text}


def _spoken(name: str) -> str:
    """Underscores are how data sets spell names, not how captions do."""
    return " ".join(name.replace("_", " ").split())

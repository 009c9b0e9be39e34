"""Fill a prompt set's templates with class senses: the sentences that the text tower reads."""

from collections.abc import Sequence
from string import Formatter

from beamclip.anchors.senses import Sense
from beamclip.config import PromptSet, UserError

Prompts = tuple[tuple[tuple[str, ...], ...], ...]
"""Sentences by class and by member of the prompt set: `prompts[label][member]` is a tuple."""

_NAME_WITH_CONTEXT = "{name}, {context}"
_NAME_ALONE = "{name}"


def prompts_for(senses: Sequence[Sense], members: Sequence[PromptSet]) -> Prompts:
    """Return the sentences of every class.

    Args:
        senses: the senses of the classes, in label order.
        members: one prompt set, or the members of an ensemble.

    Raises:
        UserError: a class has an empty name.
    """
    for label, sense in enumerate(senses):
        if not _as_words(sense.name):
            raise UserError(
                f"class {label} has an empty name; give every class a name with data.class_names"
            )
    templates_of_members = [load_templates(member) for member in members]
    prompts = []
    for sense in senses:
        prompts_of_class = []
        for member, templates in zip(members, templates_of_members, strict=True):
            prompts_of_class.append(_fill_templates(sense, member, templates))
        prompts.append(tuple(prompts_of_class))
    return tuple(prompts)


def load_templates(prompt_set: PromptSet) -> tuple[str, ...]:
    """Return the templates of a prompt set; `openai_7` and `openai_80` name open_clip's lists."""
    if isinstance(prompt_set.templates, tuple):
        return prompt_set.templates
    # Imported here because it imports torch, and prompts with their own templates need none.
    import open_clip

    open_clip_templates = {
        "openai_7": open_clip.SIMPLE_IMAGENET_TEMPLATES,
        "openai_80": open_clip.OPENAI_IMAGENET_TEMPLATES,
    }
    return tuple(template("{name}") for template in open_clip_templates[prompt_set.templates])


def uses_senses(prompt_set: PromptSet) -> bool:
    """Return whether any sentence of a prompt set depends on more than a class's name."""
    texts = (*prompt_set.names, *load_templates(prompt_set))
    return any(template_fields(text) - {"name"} for text in texts)


def template_fields(text: str) -> set[str]:
    """Return the names of the fields in a template or name phrase, such as {"name", "gloss"}."""
    return {field for _, field, _, _ in Formatter().parse(text) if field}


def sense_fields(sense: Sense) -> dict[str, str]:
    """Return the texts that are known about a class, by field name. `name` is always there."""
    context = sense.context
    if not context and sense.hypernym:
        context = f"a type of {sense.hypernym}"
    fields = {
        "name": _as_words(sense.name),
        "hypernym": sense.hypernym,
        "gloss": sense.synset.gloss if sense.synset else sense.context,
        "context": context,
    }
    return {name: text for name, text in fields.items() if text}


def _fill_templates(
    sense: Sense, prompt_set: PromptSet, templates: Sequence[str]
) -> tuple[str, ...]:
    """Return the sentences of one class and prompt set, each once.

    Templates that need an unknown field are left out. If none remains, the class gets the sentence
    `a photo of a NAME, CONTEXT.`, or `a photo of a NAME.` without a context.
    """
    fields = sense_fields(sense)
    usable = [template for template in templates if template_fields(template) <= fields.keys()]
    sentences = []
    for phrase in _name_phrases(sense, fields, prompt_set.names):
        for template in usable:
            sentences.append(template.format_map(fields | {"name": phrase}))
    if not sentences:
        phrases = _name_phrases(sense, fields, (_NAME_WITH_CONTEXT,))
        sentences = [f"a photo of a {phrase}." for phrase in phrases]
    return tuple(dict.fromkeys(sentences))


def _name_phrases(sense: Sense, fields: dict[str, str], phrases: Sequence[str]) -> list[str]:
    """Fill a prompt set's `names` phrases, once for every synonym.

    Phrases that need an unknown field are left out. If none remains, the name with its context is
    used, or else the name alone.
    """
    # `synonym` can always be filled: a class without a synset has its name as its only synonym.
    fillable = {*fields, "synonym"}
    usable = [phrase for phrase in phrases if template_fields(phrase) <= fillable]
    if not usable:
        usable = [_NAME_WITH_CONTEXT if "context" in fields else _NAME_ALONE]
    synonyms = sense.synset.lemmas if sense.synset else (fields["name"],)
    filled = []
    for phrase in usable:
        for synonym in synonyms:
            filled.append(phrase.format_map(fields | {"synonym": synonym}))
    # A phrase without `{synonym}` was filled with the same words for each of them.
    return list(dict.fromkeys(filled))


def _as_words(name: str) -> str:
    """Return a name with spaces for underscores, since text towers were trained on captions."""
    return " ".join(name.replace("_", " ").split())

"""Prompt sets: from class names to the sentences the text tower reads."""

from collections.abc import Callable, Sequence

import open_clip

from beamclip.config import UserError, nearest

Template = Callable[[str], str]

PROMPT_SETS: dict[str, tuple[Template, ...]] = {
    "plain": (lambda name: f"a photo of a {name}.",),
    "openai_7": tuple(open_clip.SIMPLE_IMAGENET_TEMPLATES),
    "openai_80": tuple(open_clip.OPENAI_IMAGENET_TEMPLATES),
}


def prompts_for(names: Sequence[str], prompt_set: str) -> list[list[str]]:
    """One list of prompts a class, all of the same length.

    Raises:
        UserError: there is no such prompt set, or a name is empty.
    """
    if prompt_set not in PROMPT_SETS:
        raise UserError(f"anchors.prompt_set {prompt_set} does not exist{nearest(prompt_set, PROMPT_SETS)}")
    empty = [i for i, name in enumerate(names) if not name.strip()]
    if empty:
        raise UserError(f"class {empty[0]} has an empty name; give every class a name with data.class_names")
    # Underscores and the like are how data sets spell names, not how captions do.
    spoken = [name.replace("_", " ").strip() for name in names]
    return [[template(name) for template in PROMPT_SETS[prompt_set]] for name in spoken]

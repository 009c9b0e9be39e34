"""Senses that somebody gave: by a pin, or with the class."""

from collections.abc import Mapping, Sequence

from beamclip.anchors.lexicon.classes import ALMOST_AN_ID, ClassName
from beamclip.anchors.lexicon.synsets import WORDNET_ID, Lexicon
from beamclip.anchors.sense import Sense, hypernym_of
from beamclip.config import UserError, nearest
from beamclip.data.names import fold

PINS = "anchors.senses"


def pins_of_classes(classes: Sequence[ClassName], pins: Mapping[str, str]) -> list[str | None]:
    """The pin of each class, if any. Spelling must be the class's own, but for case, hyphens and underscores.

    Raises:
        UserError: a pin that is empty, or for a name that is no class or that several classes have.
    """
    pinned: list[str | None] = [None] * len(classes)
    for name, pin in pins.items():
        hits = [i for i, one in enumerate(classes) if fold(one.name) == fold(name)]
        if not hits:
            raise UserError(f"{PINS} pins {name!r}, which is no class{nearest(name, {one.name for one in classes})}")
        if len(hits) > 1:
            raise UserError(f"{PINS} pins {name!r}, which {len(hits)} classes are called; their own WordNet ids tell them apart already")
        if not pin.strip():
            raise UserError(f"{PINS} has nothing for {name!r}; give a WordNet id such as n02012849, or words that say what is meant")
        pinned[hits[0]] = pin.strip()
    return pinned


def told(one: ClassName, pin: str | None, lexicon: Lexicon) -> Sense | None:
    """The sense that somebody gave: the pin's, else the class's own."""
    if pin is not None:
        return sense_of(one.name, pin, f"pinned by {PINS}", lexicon)
    if one.synset is not None:
        return sense_of(one.name, one.synset, "its own WordNet id", lexicon)
    if one.context is not None:
        return sense_of(one.name, one.context, "the context given with it", lexicon)
    return None


def sense_of(name: str, meaning: str, why: str, lexicon: Lexicon) -> Sense:
    """A sense by its WordNet id, or by words that stand for it.

    Args:
        meaning: either of them.
        why: one short phrase for people.

    Raises:
        UserError: what looks like an id is none, or no synset's.
    """
    considered = lexicon.senses(name)
    if not WORDNET_ID.fullmatch(meaning):
        if ALMOST_AN_ID.fullmatch(meaning):
            raise UserError(f"class {name!r} ({why}): {meaning!r} is no WordNet id; one is n and eight digits, such as n02012849")
        return Sense(name, None, meaning, why, considered, (), None)
    try:
        synset = lexicon.synset(meaning)
    except UserError as error:
        known = " or ".join(f"{one.id} ({one.gloss})" for one in considered[:3])
        raise UserError(f"class {name!r} ({why}): {error}" + (f"; {name} may be {known}" if known else "")) from None
    return Sense(name, synset, None, why, considered, (), hypernym_of(name, synset, lexicon))

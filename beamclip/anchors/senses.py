"""Which sense of its name each class has, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from beamclip.anchors.lexicon.agreement import weigh
from beamclip.anchors.lexicon.classes import ALMOST_AN_ID, ClassName, known_set
from beamclip.anchors.lexicon.seen import evidence_of_images
from beamclip.anchors.lexicon.synsets import WORDNET_ID, Lexicon, Synset
from beamclip.config import UserError, nearest
from beamclip.data.names import fold

__all__ = ["Sense", "ambiguous", "choose_senses", "evidence_of_images", "propose"]

PINS = "anchors.senses"
_UNDECIDED = ""


@dataclass(frozen=True)
class Sense:
    """What a class name means.

    Attributes:
        name: the class name.
        synset: its WordNet sense, None where it has none or a context of the user's stands for it.
        context: the user's own words for what is meant.
        why: one short phrase for people.
        considered: the noun senses of the name, most frequent first, whether or not they had a chance.
        scores: one for each of those considered, empty where nothing had to be weighed.
        hypernym: what the synset is a kind of, in words.
    """

    name: str
    synset: Synset | None
    context: str | None
    why: str
    considered: tuple[Synset, ...]
    scores: tuple[float, ...]
    hypernym: str | None


def choose_senses(classes: Sequence[ClassName], lexicon: Lexicon, pins: Mapping[str, str] = {}) -> tuple[Sense, ...]:
    """The sense of each class: pinned, else given with it, else known for its data set, else its only one, else what fits the others best.

    Named things (a person, a place) are chosen only where a name has no other sense.

    Args:
        pins: class name to WordNet id or free-text context.

    Raises:
        UserError: a pin for a name that is no class, or a synset id that does not exist.
    """
    pinned = _pins_of_classes(classes, pins)
    known = known_set([one.name for one in classes])
    told = [_told(one, pin, lexicon) for one, pin in zip(classes, pinned, strict=True)]
    if known:
        recalled = [_sense(one.name, known.synsets[fold(one.name)], f"known for {known.title}", lexicon) for one in classes]
        told = [sense or other for sense, other in zip(told, recalled, strict=True)]
    found = [sense or _only(one.name, lexicon) for sense, one in zip(told, classes, strict=True)]
    return _weighed(found, lexicon)


def ambiguous(senses: Sequence[Sense]) -> tuple[Sense, ...]:
    """Those whose sense had to be weighed: more than one possible, none pinned, given or known."""
    return tuple(sense for sense in senses if sense.scores)


def propose(sense: Sense, cosines: ArrayLike, lexicon: Lexicon, temperature: float = 0.05) -> Sense:
    """The same class with the sense for which the other classes and unlabelled images speak together.

    The weight of a sense is its score times exp(cosine / temperature). A sense that was not weighed by the other classes stays as it is.

    Args:
        cosines: `evidence_of_images` of the candidates in `sense.considered`, in that order.
        temperature: > 0; about twice the teacher's own (0.01 for CLIP) is a good start: below, images alone decide.
    """
    if not sense.scores:
        return sense
    evidence = np.asarray(cosines, np.float64)
    prior = np.array(sense.scores)
    weights = prior * np.exp(np.minimum(evidence - evidence[prior > 0].max(), 0) / temperature)  # no overflow: others weigh 0 anyway
    scores = weights / weights.sum()
    best, second = _best_two(sense.considered, scores)
    why = f"fits the other classes and the images best ({scores[best]:.2f}, next {scores[second]:.2f})"
    if sense.synset != sense.considered[best]:
        why += f"; without images it was {sense.considered[int(np.argmax(sense.scores))].id}"
    return _with_synset(sense, sense.considered[best], why, scores, lexicon)


def _pins_of_classes(classes: Sequence[ClassName], pins: Mapping[str, str]) -> list[str | None]:
    """The pin of each class, if any. Spelling must be the class's own, but for case, hyphens and underscores."""
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


def _told(one: ClassName, pin: str | None, lexicon: Lexicon) -> Sense | None:
    """The sense that somebody gave: the pin's, else the class's own."""
    if pin is not None:
        return _sense(one.name, pin, f"pinned by {PINS}", lexicon)
    if one.synset is not None:
        return _sense(one.name, one.synset, "its own WordNet id", lexicon)
    if one.context is not None:
        return _sense(one.name, one.context, "the context given with it", lexicon)
    return None


def _sense(name: str, meaning: str, why: str, lexicon: Lexicon) -> Sense:
    """meaning: a WordNet id or free text."""
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
    return Sense(name, synset, None, why, considered, (), _hypernym(name, synset, lexicon))


def _only(name: str, lexicon: Lexicon) -> Sense:
    """The sense of a name about which nobody said anything; undecided (no synset, but candidates) where it has several."""
    considered = lexicon.senses(name)
    possible = _possible(considered)
    if not possible:
        return Sense(name, None, None, f"no noun that {'WordNet' if lexicon.complete else 'the excerpt of WordNet'} knows", (), (), None)
    if len(possible) > 1:
        return Sense(name, None, None, _UNDECIDED, considered, (), None)
    why = "its only sense" if len(considered) == 1 else "its only sense that is not a name"
    return Sense(name, possible[0], None, why, considered, (), _hypernym(name, possible[0], lexicon))


def _weighed(senses: Sequence[Sense], lexicon: Lexicon) -> tuple[Sense, ...]:
    """All classes with those decided that were not yet."""
    if all(sense.why != _UNDECIDED for sense in senses):
        return tuple(senses)
    options = [(one.synset,) if one.synset else _possible(one.considered) if one.why == _UNDECIDED else () for one in senses]
    chances = weigh([sense.name for sense in senses], options, lexicon)
    alone = sum(map(bool, options)) == 1
    return tuple(
        _decide(one, chance, alone, lexicon) if one.why == _UNDECIDED else one for one, chance in zip(senses, chances, strict=True)
    )


def _decide(sense: Sense, chances: NDArray[np.float64], alone: bool, lexicon: Lexicon) -> Sense:
    possible = _possible(sense.considered)
    by_id = dict(zip((one.id for one in possible), chances, strict=True))
    scores = np.array([by_id.get(one.id, 0.0) for one in sense.considered])
    best, second = _best_two(sense.considered, scores)
    how = "the likeliest by itself, with no other class to compare" if alone else "fits the other classes best"
    return _with_synset(sense, sense.considered[best], f"{how} ({scores[best]:.2f}, next {scores[second]:.2f})", scores, lexicon)


def _with_synset(sense: Sense, synset: Synset, why: str, scores: NDArray[np.float64], lexicon: Lexicon) -> Sense:
    return replace(sense, synset=synset, why=why, scores=tuple(scores.tolist()), hypernym=_hypernym(sense.name, synset, lexicon))


def _possible(senses: Sequence[Synset]) -> tuple[Synset, ...]:
    """Without named things, unless there is nothing else."""
    return tuple(one for one in senses if not one.instance) or tuple(senses)


def _best_two(considered: Sequence[Synset], scores: NDArray[np.float64]) -> tuple[int, int]:
    possible = {one.id for one in _possible(considered)}
    order = [i for i in np.argsort(-scores, kind="stable").tolist() if considered[i].id in possible]
    return order[0], order[1]


def _hypernym(name: str, synset: Synset, lexicon: Lexicon) -> str | None:
    """What the synset is a kind of, by another word than the class's own: WordNet has common newts below newts."""
    while synset.parents:
        synset = lexicon.synset(synset.parents[0])
        if fold(synset.lemmas[0]) != fold(name):
            return synset.lemmas[0]
    return None

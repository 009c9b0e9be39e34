"""Which sense of its name each class has, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from beamclip.anchors.lexicon.agreement import weigh
from beamclip.anchors.lexicon.classes import ClassName, known_set
from beamclip.anchors.lexicon.synsets import Lexicon, Synset
from beamclip.anchors.sense import Sense, hypernym_of, possible_senses
from beamclip.anchors.told import pins_of_classes, sense_of, told
from beamclip.data.names import fold

_UNDECIDED = ""


def choose_senses(classes: Sequence[ClassName], lexicon: Lexicon, pins: Mapping[str, str] = {}) -> tuple[Sense, ...]:
    """The sense of each class: pinned, else given with it, else known for its data set, else its only one, else what fits the others best.

    Named things (a person, a place) are chosen only where a name has no other sense.

    Args:
        pins: class name to WordNet id or free-text context.

    Raises:
        UserError: a pin for a name that is no class, or a synset id that does not exist.
    """
    pinned = pins_of_classes(classes, pins)
    known = known_set([one.name for one in classes])
    given = [told(one, pin, lexicon) for one, pin in zip(classes, pinned, strict=True)]
    if known:
        recalled = [sense_of(one.name, known.synsets[fold(one.name)], f"known for {known.title}", lexicon) for one in classes]
        given = [sense or other for sense, other in zip(given, recalled, strict=True)]
    found = [sense or _only(one.name, lexicon) for sense, one in zip(given, classes, strict=True)]
    return _weighed(found, lexicon)


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


def _only(name: str, lexicon: Lexicon) -> Sense:
    """The sense of a name about which nobody said anything; undecided (no synset, but candidates) where it has several."""
    considered = lexicon.senses(name)
    possible = possible_senses(considered)
    if not possible:
        return Sense(name, None, None, f"no noun that {'WordNet' if lexicon.complete else 'the excerpt of WordNet'} knows", (), (), None)
    if len(possible) > 1:
        return Sense(name, None, None, _UNDECIDED, considered, (), None)
    why = "its only sense" if len(considered) == 1 else "its only sense that is not a name"
    return Sense(name, possible[0], None, why, considered, (), hypernym_of(name, possible[0], lexicon))


def _weighed(senses: Sequence[Sense], lexicon: Lexicon) -> tuple[Sense, ...]:
    """All classes with those decided that were not yet."""
    if all(sense.why != _UNDECIDED for sense in senses):
        return tuple(senses)
    options = [(one.synset,) if one.synset else possible_senses(one.considered) if one.why == _UNDECIDED else () for one in senses]
    chances = weigh([sense.name for sense in senses], options, lexicon)
    alone = sum(map(bool, options)) == 1
    return tuple(
        _decide(one, chance, alone, lexicon) if one.why == _UNDECIDED else one for one, chance in zip(senses, chances, strict=True)
    )


def _decide(sense: Sense, chances: NDArray[np.float64], alone: bool, lexicon: Lexicon) -> Sense:
    possible = possible_senses(sense.considered)
    by_id = dict(zip((one.id for one in possible), chances, strict=True))
    scores = np.array([by_id.get(one.id, 0.0) for one in sense.considered])
    best, second = _best_two(sense.considered, scores)
    how = "the likeliest by itself, with no other class to compare" if alone else "fits the other classes best"
    return _with_synset(sense, sense.considered[best], f"{how} ({scores[best]:.2f}, next {scores[second]:.2f})", scores, lexicon)


def _with_synset(sense: Sense, synset: Synset, why: str, scores: NDArray[np.float64], lexicon: Lexicon) -> Sense:
    return replace(sense, synset=synset, why=why, scores=tuple(scores.tolist()), hypernym=hypernym_of(sense.name, synset, lexicon))


def _best_two(considered: Sequence[Synset], scores: NDArray[np.float64]) -> tuple[int, int]:
    possible = {one.id for one in possible_senses(considered)}
    order = [i for i in np.argsort(-scores, kind="stable").tolist() if considered[i].id in possible]
    return order[0], order[1]

"""What a class name means, as WordNet has it."""

from collections.abc import Sequence
from dataclasses import dataclass

from beamclip.anchors.lexicon.synsets import Lexicon, Synset
from beamclip.data.names import fold


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


def ambiguous(senses: Sequence[Sense]) -> tuple[Sense, ...]:
    """Those whose sense had to be weighed: more than one possible, none pinned, given or known."""
    return tuple(sense for sense in senses if sense.scores)


def possible_senses(senses: Sequence[Synset]) -> tuple[Synset, ...]:
    """Without named things, unless there is nothing else."""
    return tuple(one for one in senses if not one.instance) or tuple(senses)


def hypernym_of(name: str, synset: Synset, lexicon: Lexicon) -> str | None:
    """What the synset is a kind of, by another word than the class's own: WordNet has common newts below newts."""
    while synset.parents:
        synset = lexicon.synset(synset.parents[0])
        if fold(synset.lemmas[0]) != fold(name):
            return synset.lemmas[0]
    return None

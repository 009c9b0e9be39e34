"""What the classes of an experiment mean: from names, what the data knows of them, and what the user pinned, to senses."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from textwrap import shorten

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from beamclip.anchors.wordnet import (
    VOCABULARIES,
    WORDNET_ID,
    ClassName,
    Lexicon,
    Synset,
    known_set,
    open_lexicon,
    open_vocabulary,
    read_class_list,
)
from beamclip.anchors.wordnet.class_lists import ALMOST_AN_ID
from beamclip.anchors.wordnet.disambiguate import weigh
from beamclip.config import AnchorsConfig, UserError, nearest
from beamclip.data.class_names import normalize_name

# What a class name means, as WordNet has it.


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
        if normalize_name(synset.lemmas[0]) != normalize_name(name):
            return synset.lemmas[0]
    return None


# Senses that somebody gave: by a pin, or with the class.


PINS = "anchors.senses"


def pins_of_classes(classes: Sequence[ClassName], pins: Mapping[str, str]) -> list[str | None]:
    """The pin of each class, if any. Spelling must be the class's own, but for case, hyphens and underscores.

    Raises:
        UserError: a pin that is empty, or for a name that is no class or that several classes have.
    """
    pinned: list[str | None] = [None] * len(classes)
    for name, pin in pins.items():
        hits = [
            i for i, one in enumerate(classes) if normalize_name(one.name) == normalize_name(name)
        ]
        if not hits:
            raise UserError(
                f"{PINS} pins {name!r}, which is no class{nearest(name, {one.name for one in classes})}"
            )
        if len(hits) > 1:
            raise UserError(
                f"{PINS} pins {name!r}, which {len(hits)} classes are called; their own WordNet ids tell them apart already"
            )
        if not pin.strip():
            raise UserError(
                f"{PINS} has nothing for {name!r}; give a WordNet id such as n02012849, or words that say what is meant"
            )
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
            raise UserError(
                f"class {name!r} ({why}): {meaning!r} is no WordNet id; one is n and eight digits, such as n02012849"
            )
        return Sense(name, None, meaning, why, considered, (), None)
    try:
        synset = lexicon.synset(meaning)
    except UserError as error:
        known = " or ".join(f"{one.id} ({one.gloss})" for one in considered[:3])
        raise UserError(
            f"class {name!r} ({why}): {error}" + (f"; {name} may be {known}" if known else "")
        ) from None
    return Sense(name, synset, None, why, considered, (), hypernym_of(name, synset, lexicon))


# Which sense of its name each class has, and why.


_UNDECIDED = ""


def choose_senses(
    classes: Sequence[ClassName], lexicon: Lexicon, pins: Mapping[str, str] = {}
) -> tuple[Sense, ...]:
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
        recalled = [
            sense_of(
                one.name,
                known.synsets[normalize_name(one.name)],
                f"known for {known.title}",
                lexicon,
            )
            for one in classes
        ]
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
    weights = prior * np.exp(
        np.minimum(evidence - evidence[prior > 0].max(), 0) / temperature
    )  # no overflow: others weigh 0 anyway
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
        return Sense(
            name,
            None,
            None,
            f"no noun that {'WordNet' if lexicon.complete else 'the excerpt of WordNet'} knows",
            (),
            (),
            None,
        )
    if len(possible) > 1:
        return Sense(name, None, None, _UNDECIDED, considered, (), None)
    why = "its only sense" if len(considered) == 1 else "its only sense that is not a name"
    return Sense(
        name, possible[0], None, why, considered, (), hypernym_of(name, possible[0], lexicon)
    )


def _weighed(senses: Sequence[Sense], lexicon: Lexicon) -> tuple[Sense, ...]:
    """All classes with those decided that were not yet."""
    if all(sense.why != _UNDECIDED for sense in senses):
        return tuple(senses)
    options = [
        (one.synset,)
        if one.synset
        else possible_senses(one.considered)
        if one.why == _UNDECIDED
        else ()
        for one in senses
    ]
    chances = weigh([sense.name for sense in senses], options, lexicon)
    alone = sum(map(bool, options)) == 1
    return tuple(
        _decide(one, chance, alone, lexicon) if one.why == _UNDECIDED else one
        for one, chance in zip(senses, chances, strict=True)
    )


def _decide(sense: Sense, chances: NDArray[np.float64], alone: bool, lexicon: Lexicon) -> Sense:
    possible = possible_senses(sense.considered)
    by_id = dict(zip((one.id for one in possible), chances, strict=True))
    scores = np.array([by_id.get(one.id, 0.0) for one in sense.considered])
    best, second = _best_two(sense.considered, scores)
    how = (
        "the likeliest by itself, with no other class to compare"
        if alone
        else "fits the other classes best"
    )
    return _with_synset(
        sense,
        sense.considered[best],
        f"{how} ({scores[best]:.2f}, next {scores[second]:.2f})",
        scores,
        lexicon,
    )


def _with_synset(
    sense: Sense, synset: Synset, why: str, scores: NDArray[np.float64], lexicon: Lexicon
) -> Sense:
    return replace(
        sense,
        synset=synset,
        why=why,
        scores=tuple(scores.tolist()),
        hypernym=hypernym_of(sense.name, synset, lexicon),
    )


def _best_two(considered: Sequence[Synset], scores: NDArray[np.float64]) -> tuple[int, int]:
    possible = {one.id for one in possible_senses(considered)}
    order = [i for i in np.argsort(-scores, kind="stable").tolist() if considered[i].id in possible]
    return order[0], order[1]


def own_classes(
    names: Sequence[str], keys: Sequence[str | None], class_names: str | None
) -> tuple[ClassName, ...]:
    """The data's own classes.

    Args:
        names, keys: as the data's source has them, in label order; keys are WordNet ids where it knows them.
        class_names: `data.class_names`, whose second column says what each name means, whatever the source says.

    Raises:
        UserError: two classes share a name and nothing tells them apart, or a line has the id that is another class's.
    """
    classes = [ClassName(name, key) for name, key in zip(names, keys, strict=True)]
    if class_names is not None:
        listed = read_class_list(Path(class_names), "data.class_names")
        _check_ids(listed, keys, class_names)
        classes = [
            said if said.synset or said.context else one
            for one, said in zip(classes, listed, strict=False)
        ]
    return tuple(classes)


def _check_ids(listed: Sequence[ClassName], keys: Sequence[str | None], class_names: str) -> None:
    """A list in another order than the folders' would silently give each class another's name and sense."""
    places = {key: place for place, key in enumerate(keys) if key is not None}
    for place, one in enumerate(listed):
        owner = places.get(one.synset or "", place)
        if owner != place:
            raise UserError(
                f"data.class_names {class_names} has {one.synset} in line {place + 1}, but its folder is number {owner + 1}; "
                "write the lines in label order"
            )


def senses_of(
    own: Sequence[ClassName], config: AnchorsConfig, vocabulary: str = "data"
) -> tuple[Sense, ...]:
    """The senses of a vocabulary's classes; `data` is the data's own.

    Raises:
        UserError: no such vocabulary, a pin that fits nothing, or `anchors.strict_senses` and a class whose sense nobody has said.
    """
    classes = _classes(own, vocabulary)
    senses = _chosen(classes, tuple(sorted(_pins_for(vocabulary, own, config).items())))
    if config.strict_senses:
        _check_all_said(senses)
    return senses


def _classes(own: Sequence[ClassName], vocabulary: str) -> tuple[ClassName, ...]:
    if vocabulary == "data":
        return tuple(own)
    return (
        _built_in(vocabulary) if vocabulary in VOCABULARIES else open_vocabulary(vocabulary)
    )  # a file may have changed since


def _pins_for(vocabulary: str, own: Sequence[ClassName], config: AnchorsConfig) -> dict[str, str]:
    """The pins for classes of this vocabulary, and those for no class at all, about which choosing senses will complain.

    One for a class of the data leaves out a vocabulary that has several of that name: it can't say which.
    """
    if not config.senses:
        return {}
    of_data, of_words = (
        Counter(normalize_name(one.name) for one in _classes(own, words))
        for words in ("data", config.vocabulary)
    )

    def concerned(name: str) -> bool:
        return (
            name in of_data or name not in of_words
            if vocabulary == "data"
            else of_words[name] == 1 or name not in of_data
        )

    return {name: pin for name, pin in config.senses.items() if concerned(normalize_name(name))}


@cache
def _chosen(classes: tuple[ClassName, ...], pins: tuple[tuple[str, str], ...]) -> tuple[Sense, ...]:
    return choose_senses(classes, open_lexicon(), dict(pins))


@cache
def _built_in(vocabulary: str) -> tuple[ClassName, ...]:
    return open_vocabulary(vocabulary)


def _check_all_said(senses: Sequence[Sense]) -> None:
    unsaid = ambiguous(senses)
    if unsaid:
        first, others = unsaid[0], len(unsaid) - 1
        likely = [
            one
            for _, one in sorted(
                zip(first.scores, first.considered, strict=True), key=lambda pair: -pair[0]
            )
        ]
        ids = ", ".join(
            f"{synset.id} ({shorten(synset.gloss, 50, placeholder=' …')})" for synset in likely[:3]
        )
        more = (
            f"; {others} more {'class is' if others == 1 else 'classes are'} ambiguous too"
            if others
            else ""
        )
        raise UserError(
            f"class {first.name} has {len(likely)} senses ({ids}){more}; pin one with "
            f"{pin_option({first.name: likely[0].id})}, see them all with `beamclip anchors --explain`"
        )


def pin_option(pins: Mapping[str, str]) -> str:
    """What to type to pin these senses, whatever characters the names have."""
    flow = yaml.safe_dump(
        dict(pins), default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf")
    ).strip()
    return f"--set {shlex.quote(f'anchors.senses={flow}')}"

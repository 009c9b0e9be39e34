"""Decide which sense each class has: what a class name such as "crane" means.

The first of these that applies decides:

1. the user's pin in `anchors.senses`: a WordNet id, or free text that says what is meant
2. what is given with the class: the WordNet id that the data's source knows, or the second column
   of a class list
3. the table of a well-known data set, if the class names are exactly its classes
4. WordNet, if it has only one sense for the name
5. the sense that fits the other classes best (see `beamclip.anchors.wordnet.disambiguate`)

Imports no torch.
"""

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
    find_known_dataset,
    open_lexicon,
    open_vocabulary,
    read_class_list,
)
from beamclip.anchors.wordnet.class_lists import MALFORMED_ID
from beamclip.anchors.wordnet.disambiguate import sense_probabilities
from beamclip.config import AnchorsConfig, UserError, nearest
from beamclip.data.class_names import lines_say_their_class, normalize_name

PINS = "anchors.senses"
"""The setting that pins senses, for messages."""


@dataclass(frozen=True)
class Sense:
    """The meaning of a class name.

    Attributes:
        name: the class name.
        synset: its WordNet sense; None if WordNet has none, or if `context` says what is meant.
        context: the user's own words for what is meant.
        why: a short phrase that tells people why this sense was chosen.
        considered: all noun senses of the name, most frequent first, including those that could not
            be chosen.
        scores: the probability of each of `considered`; empty unless the sense had to be chosen
            among several.
        hypernym: the kind of thing that the synset is, in words; None if unknown.
    """

    name: str
    synset: Synset | None
    context: str | None
    why: str
    considered: tuple[Synset, ...]
    scores: tuple[float, ...]
    hypernym: str | None


def ambiguous_senses(senses: Sequence[Sense]) -> tuple[Sense, ...]:
    """Return the senses that were chosen from several; the others were pinned, given or known."""
    return tuple(sense for sense in senses if sense.scores)


def possible_senses(synsets: Sequence[Synset]) -> tuple[Synset, ...]:
    """Leave out named things (a person, a place), unless there is nothing else."""
    common_nouns = tuple(synset for synset in synsets if not synset.instance)
    return common_nouns or tuple(synsets)


def hypernym_of(name: str, synset: Synset, lexicon: Lexicon) -> str | None:
    """Return the nearest hypernym whose word is not the class name, or None.

    A class "newt" may mean the common newt, whose parent in WordNet is "newt". The prompt "newt, a
    type of newt" would say nothing.
    """
    while synset.parents:
        synset = lexicon.synset(synset.parents[0])
        if normalize_name(synset.lemmas[0]) != normalize_name(name):
            return synset.lemmas[0]
    return None


# --- Senses that the user pins, or that are given with the class ---


def match_pins(classes: Sequence[ClassName], pins: Mapping[str, str]) -> list[str | None]:
    """Return the pin of each class, or None.

    Args:
        classes: the classes in label order.
        pins: sense by class name. Case, hyphens and underscores of names do not matter.

    Raises:
        UserError: a pin is empty, or its name is not a class or is the name of several classes.
    """
    matched: list[str | None] = [None] * len(classes)
    for name, pin in pins.items():
        labels = [
            label
            for label, class_name in enumerate(classes)
            if normalize_name(class_name.name) == normalize_name(name)
        ]
        if not labels:
            hint = nearest(name, {class_name.name for class_name in classes})
            raise UserError(f"{PINS} pins {name!r}, which is not a class{hint}")
        if len(labels) > 1:
            raise UserError(
                f"{PINS} pins {name!r}, but {len(labels)} classes have that name; drop the pin, "
                "because their own WordNet ids or contexts already say what they mean"
            )
        if not pin.strip():
            raise UserError(
                f"{PINS} is empty for {name!r}; give a WordNet id such as n02012849, "
                "or words that say what is meant"
            )
        matched[labels[0]] = pin.strip()
    return matched


def given_sense(class_name: ClassName, pin: str | None, lexicon: Lexicon) -> Sense | None:
    """Return the sense that is pinned or given with the class, or None.

    Raises:
        UserError: see `parse_sense`.
    """
    if pin is not None:
        return parse_sense(class_name.name, pin, f"pinned by {PINS}", lexicon)
    if class_name.synset is not None:
        return parse_sense(class_name.name, class_name.synset, "its own WordNet id", lexicon)
    if class_name.context is not None:
        return parse_sense(
            class_name.name, class_name.context, "the context given with it", lexicon
        )
    return None


def parse_sense(name: str, text: str, why: str, lexicon: Lexicon) -> Sense:
    """Return the sense that a WordNet id or free text stands for.

    Args:
        name: the class name.
        text: a WordNet id such as `n02012849`, or words that say what is meant.
        why: a short phrase that tells people where `text` comes from.
        lexicon: where synsets are looked up.

    Raises:
        UserError: `text` looks like an id but is malformed, or there is no such synset.
    """
    considered = lexicon.senses(name)
    if MALFORMED_ID.fullmatch(text) and not WORDNET_ID.fullmatch(text):
        raise UserError(
            f"class {name!r} ({why}): {text!r} is not a WordNet id; "
            "ids are n and eight digits, such as n02012849"
        )
    if not WORDNET_ID.fullmatch(text):
        return Sense(
            name=name,
            synset=None,
            context=text,
            why=why,
            considered=considered,
            scores=(),
            hypernym=None,
        )
    try:
        synset = lexicon.synset(text)
    except UserError as error:
        message = f"class {name!r} ({why}): {error}"
        if considered:
            choices = [f"{candidate.id} ({candidate.gloss})" for candidate in considered[:3]]
            message += f"; {name} may be {' or '.join(choices)}"
        raise UserError(message) from None
    return Sense(
        name=name,
        synset=synset,
        context=None,
        why=why,
        considered=considered,
        scores=(),
        hypernym=hypernym_of(name, synset, lexicon),
    )


# --- Choosing among WordNet's senses ---


def choose_senses(
    classes: Sequence[ClassName], lexicon: Lexicon, pins: Mapping[str, str] = {}
) -> tuple[Sense, ...]:
    """Return the sense of each class, chosen as the module's docstring says.

    Named things (a person, a place) are chosen only if a name has no other sense.

    Args:
        classes: all classes of the data set or vocabulary; they help to disambiguate each other.
        lexicon: where senses are looked up.
        pins: WordNet id or free text by class name.

    Raises:
        UserError: a pin's name is not a class, or a WordNet id does not exist.
    """
    matched_pins = match_pins(classes, pins)
    dataset = find_known_dataset([class_name.name for class_name in classes])
    senses: list[Sense | None] = []
    for class_name, pin in zip(classes, matched_pins, strict=True):
        name = class_name.name
        sense = given_sense(class_name, pin, lexicon)
        if sense is None and dataset is not None:
            synset_id = dataset.synsets[normalize_name(name)]
            sense = parse_sense(name, synset_id, f"known for {dataset.title}", lexicon)
        if sense is None:
            sense = _only_sense(name, lexicon)
        senses.append(sense)
    return _choose_by_other_classes(classes, senses, lexicon)


def _only_sense(name: str, lexicon: Lexicon) -> Sense | None:
    """Return the sense of a name with at most one possible sense in WordNet, else None."""
    considered = lexicon.senses(name)
    possible = possible_senses(considered)
    if not possible:
        dictionary = "WordNet" if lexicon.complete else "the excerpt of WordNet"
        return Sense(
            name=name,
            synset=None,
            context=None,
            why=f"not a noun in {dictionary}",
            considered=(),
            scores=(),
            hypernym=None,
        )
    if len(possible) > 1:
        return None
    why = "its only sense" if len(considered) == 1 else "its only sense that is not a name"
    return Sense(
        name=name,
        synset=possible[0],
        context=None,
        why=why,
        considered=considered,
        scores=(),
        hypernym=hypernym_of(name, possible[0], lexicon),
    )


def _choose_by_other_classes(
    classes: Sequence[ClassName], senses: Sequence[Sense | None], lexicon: Lexicon
) -> tuple[Sense, ...]:
    """Return the senses with each None replaced by the one that fits the other classes best."""
    settled = tuple(sense for sense in senses if sense is not None)
    if len(settled) == len(senses):
        return settled

    names = [class_name.name for class_name in classes]
    candidates: list[tuple[Synset, ...]] = []
    for name, sense in zip(names, senses, strict=True):
        if sense is None:
            candidates.append(possible_senses(lexicon.senses(name)))
        elif sense.synset is not None:
            candidates.append((sense.synset,))
        else:
            candidates.append(())
    probabilities = sense_probabilities(names, candidates, lexicon)

    reason = "fits the other classes best"
    classes_with_candidates = sum(1 for synsets in candidates if synsets)
    if classes_with_candidates == 1:
        reason = "the most probable on its own; there is no other class to compare with"

    chosen = []
    for label, sense in enumerate(senses):
        if sense is None:
            considered = lexicon.senses(names[label])
            candidate_ids = [synset.id for synset in candidates[label]]
            probability_of = dict(zip(candidate_ids, probabilities[label], strict=True))
            # Named things are not among the candidates and score 0.
            scores = np.array([probability_of.get(synset.id, 0.0) for synset in considered])
            undecided = Sense(
                name=names[label],
                synset=None,
                context=None,
                why="",
                considered=considered,
                scores=(),
                hypernym=None,
            )
            sense = _with_best_synset(undecided, scores, reason, lexicon)
        chosen.append(sense)
    return tuple(chosen)


def add_image_evidence(
    sense: Sense, cosines: ArrayLike, lexicon: Lexicon, temperature: float = 0.05
) -> Sense:
    """Choose a sense again, by the other classes and by unlabeled images together.

    The weight of a sense is its score times exp(cosine / temperature). A sense that was not chosen
    among several stays as it is.

    Args:
        sense: the sense that `choose_senses` returned.
        cosines: how well the images show each of `sense.considered`, in that order.
        lexicon: where hypernyms are looked up.
        temperature: > 0. About twice the teacher's own (0.01 for CLIP) is a good start; below that,
            images alone decide.
    """
    if not sense.scores:
        return sense
    evidence = np.asarray(cosines, np.float64)
    prior = np.array(sense.scores)
    # Cosines are taken relative to the best possible sense so that exp can't overflow; the minimum
    # only affects senses of prior 0.
    relative = np.minimum(evidence - evidence[prior > 0].max(), 0)
    weights = prior * np.exp(relative / temperature)
    scores = weights / weights.sum()
    chosen = _with_best_synset(sense, scores, "fits the other classes and the images best", lexicon)
    if chosen.synset == sense.synset:
        return chosen
    without_images = sense.considered[int(np.argmax(sense.scores))].id
    return replace(chosen, why=f"{chosen.why}; without images it was {without_images}")


def _with_best_synset(
    sense: Sense, scores: NDArray[np.float64], reason: str, lexicon: Lexicon
) -> Sense:
    """Return the sense with its most probable possible synset, and with the scores in `why`."""
    possible_ids = {synset.id for synset in possible_senses(sense.considered)}
    # Stable: equal scores keep WordNet's order, most frequent first.
    descending = np.argsort(-scores, kind="stable").tolist()
    ranking = [index for index in descending if sense.considered[index].id in possible_ids]
    best, second = ranking[:2]
    synset = sense.considered[best]
    return replace(
        sense,
        synset=synset,
        why=f"{reason} ({scores[best]:.2f}, next {scores[second]:.2f})",
        scores=tuple(scores.tolist()),
        hypernym=hypernym_of(sense.name, synset, lexicon),
    )


# --- Senses of an experiment's classes ---


def dataset_classes(
    names: Sequence[str], keys: Sequence[str | None], class_names: str | None
) -> tuple[ClassName, ...]:
    """Return the data's own classes, with what is given about their senses.

    Args:
        names: class names of the data's source, in label order.
        keys: their WordNet ids, None where the source knows none.
        class_names: `data.class_names`. Its second column overrides `keys`.

    Raises:
        UserError: two classes share a name and have no ids or contexts that say which is which, or
            a line has another class's id.
    """
    classes = [ClassName(name, key) for name, key in zip(names, keys, strict=True)]
    if class_names is None:
        return tuple(classes)
    listed_classes = read_class_list(Path(class_names), "data.class_names")
    # The source took the lines by their numbers or WordNet ids. Only lines with a tab say more than
    # it knows, and those have a name of their own unless they have an id.
    if lines_say_their_class(Path(class_names)):
        listed_classes = _lines_of_classes(listed_classes, classes)
    else:
        _check_label_order(listed_classes, keys, class_names)
    # A list may have more lines than the data has classes.
    for label, listed in enumerate(listed_classes[: len(classes)]):
        if listed.synset or listed.context:
            classes[label] = listed
    return tuple(classes)


def _lines_of_classes(
    listed_classes: Sequence[ClassName], classes: Sequence[ClassName]
) -> tuple[ClassName, ...]:
    """Return the line of each class, found by its name and WordNet id; the class without one."""
    lines_by_name: dict[str, list[ClassName]] = {}
    for listed in listed_classes:
        lines_by_name.setdefault(listed.name, []).append(listed)
    lines = []
    for own in classes:
        candidates = lines_by_name.get(own.name, [])
        if own.synset is not None and len(candidates) > 1:
            candidates = [listed for listed in candidates if listed.synset == own.synset]
        lines.append(candidates[0] if len(candidates) == 1 else own)
    return tuple(lines)


def _check_label_order(
    listed_classes: Sequence[ClassName], keys: Sequence[str | None], class_names: str
) -> None:
    """Raise UserError if a line has the WordNet id of another class.

    A list in another order than the folders would silently give each class another's name and
    sense.
    """
    label_of = {key: label for label, key in enumerate(keys) if key is not None}
    for line, listed in enumerate(listed_classes):
        # A line without an id, or with one that no folder has, can't be checked.
        label = label_of.get(listed.synset or "", line)
        if label != line:
            raise UserError(
                f"data.class_names {class_names} has {listed.synset} in line {line + 1}, "
                f"but its folder is number {label + 1}; write the lines in label order"
            )


def resolve_senses(
    data_classes: Sequence[ClassName], config: AnchorsConfig, vocabulary: str = "data"
) -> tuple[Sense, ...]:
    """Return the senses of a vocabulary's classes.

    Args:
        data_classes: the data's own classes, as `dataset_classes` returns them.
        config: the `anchors` settings.
        vocabulary: `data` for the data's own classes, one of `VOCABULARIES`, or the path of a class
            list.

    Raises:
        UserError: there is no such vocabulary, a pin matches nothing, or `anchors.strict_senses` is
            set and a sense is ambiguous.
    """
    classes = _vocabulary_classes(data_classes, vocabulary)
    pins = _pins_for(vocabulary, data_classes, config)
    senses = _choose_senses_cached(classes, tuple(sorted(pins.items())))
    if config.strict_senses:
        _check_none_ambiguous(senses)
    return senses


def _vocabulary_classes(
    data_classes: Sequence[ClassName], vocabulary: str
) -> tuple[ClassName, ...]:
    if vocabulary == "data":
        return tuple(data_classes)
    if vocabulary in VOCABULARIES:
        return _open_built_in_vocabulary(vocabulary)
    # A file is not cached: it may have changed since the last call.
    return open_vocabulary(vocabulary)


def _pins_for(
    vocabulary: str, data_classes: Sequence[ClassName], config: AnchorsConfig
) -> dict[str, str]:
    """Return the pins that apply to this vocabulary, and those that match no class at all.

    The latter are kept so that `match_pins` reports them. A pin for a class of the data is not
    applied to a vocabulary with several classes of that name, since it can't say which one it
    means.
    """
    if not config.senses:
        return {}
    data_names = _count_names(data_classes)
    vocabulary_names = _count_names(_vocabulary_classes(data_classes, config.vocabulary))
    pins = {}
    for name, pin in config.senses.items():
        normalized = normalize_name(name)
        if vocabulary == "data":
            applies = normalized in data_names or normalized not in vocabulary_names
        else:
            applies = vocabulary_names[normalized] == 1 or normalized not in data_names
        if applies:
            pins[name] = pin
    return pins


def _count_names(classes: Sequence[ClassName]) -> Counter[str]:
    """Return how many classes have each name, by normalized name."""
    return Counter(normalize_name(class_name.name) for class_name in classes)


@cache
def _choose_senses_cached(
    classes: tuple[ClassName, ...], pins: tuple[tuple[str, str], ...]
) -> tuple[Sense, ...]:
    """Call `choose_senses`, whose arguments `cache` could not hash."""
    return choose_senses(classes, open_lexicon(), dict(pins))


@cache
def _open_built_in_vocabulary(vocabulary: str) -> tuple[ClassName, ...]:
    return open_vocabulary(vocabulary)


def _check_none_ambiguous(senses: Sequence[Sense]) -> None:
    """Raise UserError for the first class whose sense had to be chosen among several."""
    ambiguous = ambiguous_senses(senses)
    if not ambiguous:
        return
    first = ambiguous[0]
    # Sorting indices is stable, so that equal scores keep WordNet's order.
    ranking = sorted(range(len(first.scores)), key=lambda index: -first.scores[index])
    synsets = [first.considered[index] for index in ranking]
    choices = []
    for synset in synsets[:3]:
        gloss = shorten(synset.gloss, 50, placeholder=" …")
        choices.append(f"{synset.id} ({gloss})")
    message = f"class {first.name} has {len(synsets)} senses ({', '.join(choices)})"
    others = len(ambiguous) - 1
    if others:
        message += f"; {others} more {'class is' if others == 1 else 'classes are'} ambiguous too"
    raise UserError(
        f"{message}; pin one with {pin_option({first.name: synsets[0].id})}, "
        "see them all with `beamclip anchors --explain`"
    )


def pin_option(pins: Mapping[str, str]) -> str:
    """Return the command-line option that pins these senses, quoted for the shell."""
    # One line of YAML, as `--set` reads it; an infinite width keeps it from being wrapped.
    flow = yaml.safe_dump(
        dict(pins), default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf")
    ).strip()
    return f"--set {shlex.quote(f'anchors.senses={flow}')}"

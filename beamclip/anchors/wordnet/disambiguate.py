"""Disambiguate class names: the sense that fits the other classes of the data set best.

Every synset has a chain of ancestors up to `entity`. An ancestor a adds information w_a (how much
rarer it is than its own parents), and n_a of the other classes, in expectation over their senses,
are below it. The agreement of a sense is the share of its information that other classes have too,

    agreement(s) = Σ_a w_a · n_a / (n_a + 5) / Σ_a w_a

over the ancestors a of s, itself included; it is in [0, 1). The weight of a sense is the
exponential of

    5 · agreement
    + 1                     if its first lemma is the class name
    + 1                     if it is a physical thing
    − ¼ ln(rank)            by frequency
    + 3 · share             of the words of a qualifier in parentheses that its definition
                            or its ancestors' names have

The expectations are those of the weights themselves: three rounds from agreement 0. The constants
were chosen on LVIS, with an eye on ImageNet-1K, on a broad optimum; tests/benchmarks/senses.py
measures the accuracy.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import log1p

import numpy as np
from numpy.typing import NDArray

from beamclip.anchors.wordnet.lemmatize import qualifier, strip_qualifier
from beamclip.anchors.wordnet.lexicon import Lexicon, Synset

PHYSICAL = "n00001930"
"""Id of the synset "physical entity": what a photograph can show."""
ROUNDS = 3
"""Rounds in which the senses of all classes are weighed by each other."""

# The number of other classes below an ancestor at which it counts half.
_HALF_COUNT = 5.0
_AGREEMENT_WEIGHT = 5.0
_FIRST_LEMMA_WEIGHT = 1.0
_PHYSICAL_WEIGHT = 1.0
_RANK_WEIGHT = 0.25
_QUALIFIER_WEIGHT = 3.0
# fmt: off
_STOP_WORDS = frozenset([
    "a", "an", "and", "at", "for", "from", "in", "of", "on", "or",
    "part", "the", "to", "type", "used", "with",
])
# fmt: on

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _AncestorTable:
    """The senses of all classes one after the other, [S], and the ancestors of each sense, [A].

    Attributes:
        class_of_sense: the class of each sense, [S], ascending.
        sense: the sense of each entry, [A], ascending: one entry for each ancestor of each sense.
        ancestor: number of the ancestor, [A].
        class_and_ancestor: a number for each pair of class and ancestor, [A].
        information: information w that the ancestor adds, [A].
    """

    class_of_sense: Ints
    sense: Ints
    ancestor: Ints
    class_and_ancestor: Ints
    information: Floats


def sense_probabilities(
    names: Sequence[str], candidates: Sequence[Sequence[Synset]], lexicon: Lexicon
) -> list[Floats]:
    """Return the probability of each class's candidate senses, given those of the other classes.

    Args:
        names: class names.
        candidates: the senses that each class may have, most frequent first: one if it is settled,
            none if nothing is known.
        lexicon: where ancestors are looked up.

    Returns:
        For each class as many numbers as it has candidates, summing to 1.
    """
    counts = [len(of_class) for of_class in candidates]
    if not sum(counts):
        return [np.zeros(0) for _ in candidates]
    table = _ancestor_table(candidates, lexicon)
    priors = []
    for name, of_class in zip(names, candidates, strict=True):
        for rank, synset in enumerate(of_class):
            priors.append(_prior_logit(name, synset, rank, lexicon))
    prior = np.array(priors)
    probability = _softmax_by_class(prior, table.class_of_sense)
    for _ in range(ROUNDS):
        logits = _AGREEMENT_WEIGHT * _agreement(table, probability) + prior
        probability = _softmax_by_class(logits, table.class_of_sense)
    return np.split(probability, np.cumsum(counts)[:-1])


def _ancestor_table(candidates: Sequence[Sequence[Synset]], lexicon: Lexicon) -> _AncestorTable:
    class_of_sense = []
    chains = []
    for label, of_class in enumerate(candidates):
        for synset in of_class:
            class_of_sense.append(label)
            chains.append(sorted(lexicon.ancestors(synset.id)))
    number_of: dict[str, int] = {}
    for chain in chains:
        for id in chain:
            number_of.setdefault(id, len(number_of))
    added_information = np.array([_added_information(id, lexicon) for id in number_of])

    classes = np.array(class_of_sense, np.int64)
    sense = np.repeat(np.arange(len(chains)), [len(chain) for chain in chains])
    ancestor = np.array([number_of[id] for chain in chains for id in chain], np.int64)
    _, pairs = np.unique(classes[sense] * len(number_of) + ancestor, return_inverse=True)
    return _AncestorTable(
        class_of_sense=classes,
        sense=sense,
        ancestor=ancestor,
        class_and_ancestor=pairs.astype(np.int64),
        information=added_information[ancestor],
    )


def _added_information(id: str, lexicon: Lexicon) -> float:
    """Return the information in a synset that its parents do not have."""
    parents = lexicon.synset(id).parents
    of_parents = max((lexicon.information_content(parent) for parent in parents), default=0.0)
    return max(lexicon.information_content(id) - of_parents, 0.0)


def _agreement(table: _AncestorTable, probability: Floats) -> Floats:
    """Return the share of each sense's information that other classes have too, [S]."""
    of_entry = probability[table.sense]
    all_classes = np.bincount(table.ancestor, of_entry)
    own_class = np.bincount(table.class_and_ancestor, of_entry)
    others = np.maximum(all_classes[table.ancestor] - own_class[table.class_and_ancestor], 0)
    shared = np.bincount(table.sense, table.information * others / (others + _HALF_COUNT))
    total = np.bincount(table.sense, table.information)
    return np.asarray(shared / np.maximum(total, 1e-9))


def _softmax_by_class(logits: Floats, class_of_sense: Ints) -> Floats:
    """Return the softmax over the senses of each class, [S]."""
    highest = np.full(class_of_sense[-1] + 1, -np.inf)
    np.maximum.at(highest, class_of_sense, logits)
    weights = np.exp(logits - highest[class_of_sense])
    return np.asarray(weights / np.bincount(class_of_sense, weights)[class_of_sense])


def _prior_logit(name: str, synset: Synset, rank: int, lexicon: Lexicon) -> float:
    """Return the logarithm of a sense's weight without the agreement term."""
    is_first_lemma = strip_qualifier(synset.lemmas[0]) == strip_qualifier(name)
    is_physical = PHYSICAL in lexicon.ancestors(synset.id)
    return (
        _FIRST_LEMMA_WEIGHT * is_first_lemma
        + _PHYSICAL_WEIGHT * is_physical
        - _RANK_WEIGHT * log1p(rank)
        + _QUALIFIER_WEIGHT * _qualifier_match(name, synset, lexicon)
    )


def _qualifier_match(name: str, synset: Synset, lexicon: Lexicon) -> float:
    """Return the share of a qualifier's words that are in a sense's ancestors or definition."""
    wanted = _content_words(qualifier(name))
    if not wanted:
        return 0.0
    lemmas = [lemma for id in lexicon.ancestors(synset.id) for lemma in lexicon.synset(id).lemmas]
    return len(wanted & _content_words(f"{' '.join(lemmas)} {synset.gloss}")) / len(wanted)


def _content_words(text: str) -> frozenset[str]:
    """Return the words of a text without stop words and plural endings."""
    words = re.findall(r"[a-z]+", text.lower())
    return frozenset(word.removesuffix("s") for word in words if word not in _STOP_WORDS)

"""Disambiguate class names: find the sense that fits the other classes of the data set best.

Classes of one data set tend to be of the same kinds, and WordNet knows the kinds: the ancestors of
each synset up to `entity`. The agreement of a sense s is the share of its information that other
classes have too,

    agreement(s) = Σ_a w_a · n_a / (n_a + 5) / Σ_a w_a

over all ancestors a of s, and s itself. It is in [0, 1). Here

    w_a   is the information that a adds: how much rarer it is than its parents
    n_a   is the number of other classes below a. Their senses are not certain either, so it is the
          expected number, computed from the probabilities of their senses.

The probability of a sense is the softmax, over the senses of its class, of

    5 · agreement
    + 1               if the sense's first lemma is the class name
    + 1               if it is a physical thing
    − ¼ ln(rank)      where the most frequent sense has rank 1
    + 3 · share       of the words in the name's qualifier (in parentheses) that also occur in the
                      sense's definition or in its ancestors' names

The probabilities depend on n_a, which depends on the probabilities. They are computed in three
rounds; before the first one, agreement is taken as 0.

The constants were chosen on LVIS; ImageNet-1K was looked at, too. The accuracy is about the same
over a wide range of their values; tests/benchmarks/senses.py measures it.
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
"""Id of the synset "physical entity". Only such things can be in a photograph."""
ROUNDS = 3
"""Rounds in which the probabilities of all senses are computed from each other."""

# An ancestor counts half if this many other classes are below it.
_HALF_COUNT = 5.0
# The weights of the terms in the module's docstring.
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
    """The S senses of all classes, one after the other, and their ancestors.

    It has A entries: one for each ancestor of each sense. Flat arrays let `np.bincount` sum over
    senses, classes or ancestors.

    Attributes:
        class_of_sense: the class of each sense, [S], ascending.
        sense: the sense of each entry, [A], ascending.
        ancestor: number of the ancestor of each entry, [A].
        class_and_ancestor: number of the pair (class, ancestor) of each entry, [A].
        information: information w that the ancestor of each entry adds, [A].
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
        candidates: for each class, the senses it may have, most frequent first. There is one if
            the sense is settled, and none if the name is unknown.
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
    # Each pair as one integer, renumbered without gaps.
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
    entry_probability = probability[table.sense]
    # Expected number of classes below each ancestor, and how much of it is the sense's own class.
    all_classes = np.bincount(table.ancestor, entry_probability)
    own_class = np.bincount(table.class_and_ancestor, entry_probability)
    # Rounding can make the difference slightly negative.
    others = np.maximum(all_classes[table.ancestor] - own_class[table.class_and_ancestor], 0)
    shared = np.bincount(table.sense, table.information * others / (others + _HALF_COUNT))
    total = np.bincount(table.sense, table.information)
    # A sense without information, `entity` itself, has agreement 0.
    return np.asarray(shared / np.maximum(total, 1e-9))


def _softmax_by_class(logits: Floats, class_of_sense: Ints) -> Floats:
    """Return the softmax over the senses of each class, [S]."""
    # The largest logit of each class is subtracted, so that exp can't overflow.
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
    qualifier_words = _content_words(qualifier(name))
    if not qualifier_words:
        return 0.0
    texts = [synset.gloss]
    for id in lexicon.ancestors(synset.id):
        texts.extend(lexicon.synset(id).lemmas)
    matching_words = qualifier_words & _content_words(" ".join(texts))
    return len(matching_words) / len(qualifier_words)


def _content_words(text: str) -> frozenset[str]:
    """Return the words of a text without stop words and plural endings."""
    words = re.findall(r"[a-z]+", text.lower())
    return frozenset(word.removesuffix("s") for word in words if word not in _STOP_WORDS)

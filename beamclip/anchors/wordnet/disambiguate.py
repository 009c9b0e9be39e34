"""Which sense of an ambiguous class name fits the other classes of its data set.

Every synset is a chain of ancestors up to `entity`. An ancestor a adds information w_a (how much rarer it is than its own parents), and
n_a of the other classes, in expectation over their senses, lie below it. The agreement of a sense is the share of its information that
other classes have too,

    agreement(s) = Σ_a w_a · n_a / (n_a + 5) / Σ_a w_a        over the ancestors a of s, itself included; in [0, 1)

and its weight exp(5 · agreement + 1 where its usual word is the class name + 1 where it is a physical thing − ¼ ln(rank by frequency)
+ 3 · share of the words of a remark in parentheses that its ancestors' names and its definition have). The expectations are those of the
weights themselves: three rounds from agreement 0. The constants were chosen on LVIS, with an eye on
ImageNet-1K, on a broad optimum; tests/benchmarks/senses.py measures what comes out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import log1p

import numpy as np
from numpy.typing import NDArray

from beamclip.anchors.wordnet.lexicon import Lexicon, Synset, remark, without_remark

PHYSICAL = "n00001930"  # physical entity: what a photograph can show
ROUNDS = 3

_HALF = 5.0  # other classes below an ancestor at which it counts half
_AGREEMENT, _USUAL, _PHYSICAL, _RANK, _REMARK = 5.0, 1.0, 1.0, 0.25, 3.0
_SMALL_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "at",
        "for",
        "from",
        "in",
        "of",
        "on",
        "or",
        "part",
        "the",
        "to",
        "type",
        "used",
        "with",
    ]
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Chains:
    """Senses of all classes one after the other, and their ancestors.

    Attributes:
        owner: the class of each sense, [S], ascending.
        sense: index into `owner`, [A], ascending: one entry for each ancestor of each sense.
        node: the ancestor, [A].
        group: a number for each pair of class and ancestor, [A].
        information: w of the ancestor, [A].
    """

    owner: Ints
    sense: Ints
    node: Ints
    group: Ints
    information: Floats


def weigh(
    names: Sequence[str], options: Sequence[Sequence[Synset]], lexicon: Lexicon
) -> list[Floats]:
    """The probability of each class's possible senses, given those of the other classes.

    Args:
        names: class names.
        options: the senses that each class may have: one where it is settled, none where nothing is known.

    Returns:
        For each class as many numbers as it has options, summing to 1.
    """
    sizes = [len(of_class) for of_class in options]
    if not sum(sizes):
        return [np.zeros(0) for _ in options]
    chains = _chains(options, lexicon)
    prior = np.array(
        [
            _prior(name, one, rank, lexicon)
            for name, of in zip(names, options, strict=True)
            for rank, one in enumerate(of)
        ]
    )
    chance = _normalise(prior, chains.owner)
    for _ in range(ROUNDS):
        chance = _normalise(_AGREEMENT * _agreement(chains, chance) + prior, chains.owner)
    return np.split(chance, np.cumsum(sizes)[:-1])


def _chains(options: Sequence[Sequence[Synset]], lexicon: Lexicon) -> _Chains:
    flat = [(number, one.id) for number, of_class in enumerate(options) for one in of_class]
    ancestors = [sorted(lexicon.ancestors(id)) for _, id in flat]
    nodes = {id: i for i, id in enumerate(dict.fromkeys(id for chain in ancestors for id in chain))}
    added = np.array([_added(id, lexicon) for id in nodes])
    owner = np.array([number for number, _ in flat], np.int64)
    sense = np.repeat(np.arange(len(flat)), [len(chain) for chain in ancestors])
    node = np.array([nodes[id] for chain in ancestors for id in chain], np.int64)
    _, group = np.unique(owner[sense] * len(nodes) + node, return_inverse=True)
    return _Chains(owner, sense, node, group.astype(np.int64), added[node])


def _added(id: str, lexicon: Lexicon) -> float:
    """The information in an ancestor that its parents do not have."""
    above = max((lexicon.information(parent) for parent in lexicon.synset(id).parents), default=0.0)
    return max(lexicon.information(id) - above, 0.0)


def _agreement(chains: _Chains, chance: Floats) -> Floats:
    """The share of each sense's information that other classes have too, [S]."""
    of_sense = chance[chains.sense]
    everyone, own = np.bincount(chains.node, of_sense), np.bincount(chains.group, of_sense)
    others = np.maximum(everyone[chains.node] - own[chains.group], 0)
    shared = np.bincount(chains.sense, chains.information * others / (others + _HALF))
    return np.asarray(shared / np.maximum(np.bincount(chains.sense, chains.information), 1e-9))


def _normalise(logits: Floats, owner: Ints) -> Floats:
    """Softmax over the senses of each class."""
    top = np.full(owner[-1] + 1, -np.inf)
    np.maximum.at(top, owner, logits)
    weights = np.exp(logits - top[owner])
    return np.asarray(weights / np.bincount(owner, weights)[owner])


def _prior(name: str, synset: Synset, rank: int, lexicon: Lexicon) -> float:
    usual = without_remark(synset.lemmas[0]) == without_remark(name)
    physical = PHYSICAL in lexicon.ancestors(synset.id)
    return (
        _USUAL * usual
        + _PHYSICAL * physical
        - _RANK * log1p(rank)
        + _REMARK * _fits_remark(name, synset, lexicon)
    )


def _fits_remark(name: str, synset: Synset, lexicon: Lexicon) -> float:
    """The share of the words in parentheses that speak for a sense."""
    asked = _words(remark(name))
    if not asked:
        return 0.0
    kinds = " ".join(
        lemma for id in lexicon.ancestors(synset.id) for lemma in lexicon.synset(id).lemmas
    )
    return len(asked & _words(f"{kinds} {synset.gloss}")) / len(asked)


def _words(text: str) -> frozenset[str]:
    found = re.findall(r"[a-z]+", text.lower())
    return frozenset(word.removesuffix("s") for word in found if word not in _SMALL_WORDS)

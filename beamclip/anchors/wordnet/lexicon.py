"""What every lexicon does in the same way, given a list of words and a way to read a synset."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import Protocol

from beamclip.config import UserError

# From a class name to the forms under which WordNet may list it, after WordNet's own "morphy".


# Suffix and ending, from WordNet's manual page morphy(7). The first that leads to a known word wins.
_DETACHMENTS = (
    ("s", ""),
    ("ses", "s"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)


_SHORT = 3


def without_remark(name: str) -> str:
    """`crane_(bird)` -> `crane`: a name without what stands in parentheses, in words and lower case."""
    return " ".join(name.split("(")[0].replace("_", " ").lower().split())


def remark(name: str) -> str:
    """`crane_(bird)` -> `bird`: what stands in parentheses, empty where nothing does."""
    return name.partition("(")[2].partition(")")[0].replace("_", " ").lower().strip()


def base_forms(
    name: str, exceptions: Mapping[str, Sequence[str]], known: Callable[[str], bool]
) -> tuple[str, ...]:
    """The listed forms of a name: usually one, none for an unknown name.

    More where a plural has several singulars (`axes`), or is listed by itself too: `shoes` in WordNet is "a particular situation", and
    whoever has a class of that name means the plural of `shoe`. What is listed under the name itself comes first. Of a list of lemmas
    such as `tench, Tinca tinca` that is not listed as a whole, the first one counts.

    Args:
        exceptions: irregular plurals and their singulars, from WordNet's noun.exc.
        known: whether WordNet lists a form.
    """
    for spelling in _spellings(without_remark(name)):
        found = [*filter(known, (spelling, *_irregular(spelling, exceptions)))]
        if len(found) < 2:
            found += [*filter(known, _regular(spelling))][:1]
        if found:
            return tuple(dict.fromkeys(found))
    first, comma, _ = name.partition(",")
    return base_forms(first, exceptions, known) if comma else ()


def _spellings(words: str) -> tuple[str, ...]:
    joined = words.replace(" ", "_")
    ways = (
        joined,
        joined.replace("-", "_"),
        joined.replace("_", "-"),
        joined.replace("_", ""),
        joined.replace("-", ""),
    )
    return tuple(way for way in dict.fromkeys(ways) if way)


def _irregular(form: str, exceptions: Mapping[str, Sequence[str]]) -> Iterator[str]:
    yield from exceptions.get(form, ())
    head, joint, last = form.rpartition("_")
    for base in exceptions.get(last, ()) if head else ():
        yield head + joint + base


def _regular(form: str) -> Iterator[str]:
    if len(form) <= _SHORT or form.endswith("ss"):
        return  # bus, gas, glass: no plurals
    for suffix, ending in _DETACHMENTS:
        if form.endswith(suffix):
            yield form.removesuffix(suffix) + ending


# What a lexicon is: noun senses of WordNet 3.0, whose ids are ImageNet's.


WORDNET_ID = re.compile(r"n\d{8}")
HOW_TO_INSTALL = (
    "install WordNet 3.0 (Debian's wordnet-base, or `python -m nltk.downloader wordnet`)"
)


@dataclass(frozen=True)
class Synset:
    """One sense, with all words that can stand for it.

    Attributes:
        id: WordNet 3.0 offset, such as `n02012849`.
        lemmas: the words, without underscores, the usual one first.
        gloss: the definition, without example sentences.
        parents: ids of the hypernyms; for a named thing, of what it is an instance of.
        instance: a named thing, such as a person or a place.
    """

    id: str
    lemmas: tuple[str, ...]
    gloss: str
    parents: tuple[str, ...]
    instance: bool


class Lexicon(Protocol):
    """Where senses are looked up."""

    @property
    def complete(self) -> bool:
        """Whether this is the whole of WordNet, or only the excerpt that comes with beamclip."""

    def senses(self, name: str) -> tuple[Synset, ...]:
        """Noun senses of a class name, most frequent first; empty where the name is unknown.

        Underscores, hyphens, case and plurals do not matter, nor does a remark in parentheses: `crane_(bird)` has the senses of `crane`.
        """

    def synset(self, id: str) -> Synset:
        """The synset of an id.

        Raises:
            UserError: it does not exist.
        """

    def ancestors(self, id: str) -> frozenset[str]:
        """Ids of all hypernyms up to `entity`, itself included."""

    def information(self, id: str) -> float:
        """How much it says that something is a kind of this, in nats: 0 for `entity`, 11.3 for a noun with nothing below it."""


NOUNS = 82115  # synsets in WordNet 3.0's data.noun


class Nouns(ABC):
    """A lexicon over some source of nouns. Remembers what it has read."""

    complete: bool

    def __init__(self) -> None:
        self._synsets: dict[str, Synset] = {}
        self._ancestors: dict[str, frozenset[str]] = {}

    @abstractmethod
    def ids(self, form: str) -> tuple[str, ...]:
        """Ids of the synsets that WordNet lists under a form (lower case, underscores), most frequent first."""

    @abstractmethod
    def read(self, id: str) -> Synset | None:
        """A synset from the source, None where it isn't there."""

    @cached_property
    @abstractmethod
    def exceptions(self) -> Mapping[str, Sequence[str]]:
        """Irregular plurals and their singulars."""

    @cached_property
    @abstractmethod
    def below(self) -> Mapping[str, int]:
        """How many of WordNet's synsets are kinds of a synset, itself included; those with nothing below them may be left out."""

    def senses(self, name: str) -> tuple[Synset, ...]:
        """See `Lexicon`."""
        forms = base_forms(name, self.exceptions, lambda form: bool(self.ids(form)))
        return tuple(
            self.synset(id) for id in dict.fromkeys(id for form in forms for id in self.ids(form))
        )

    def synset(self, id: str) -> Synset:
        """See `Lexicon`."""
        if id not in self._synsets:
            found = self.read(id)
            if found is None:
                raise UserError(f"synset {id} {self._missing()}")
            self._synsets[id] = found
        return self._synsets[id]

    def ancestors(self, id: str) -> frozenset[str]:
        """See `Lexicon`."""
        if id not in self._ancestors:
            self._ancestors[id] = frozenset((id,)).union(
                *map(self.ancestors, self.synset(id).parents)
            )
        return self._ancestors[id]

    def information(self, id: str) -> float:
        """See `Lexicon`."""
        return log(NOUNS / self.below.get(id, 1))

    def _missing(self) -> str:
        if self.complete:
            return "does not exist in WordNet 3.0"
        return (
            f"is not among the synsets that come with beamclip; check the id, or {HOW_TO_INSTALL}"
        )

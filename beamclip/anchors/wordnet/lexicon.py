"""Define a lexicon: the noun senses of WordNet 3.0, whose ids are also ImageNet's.

The rest of beamclip uses the protocol `Lexicon`. `NounLexicon` implements it over any source of
words and synsets; the sources are in `beamclip.anchors.wordnet.readers`.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import Protocol

from beamclip.anchors.wordnet.lemmatize import base_forms
from beamclip.config import UserError

WORDNET_ID = re.compile(r"n\d{8}")
NOUN_SYNSETS = 82115
"""Number of synsets in WordNet 3.0's data.noun."""
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
        parents: ids of the hypernyms, or for a named thing, of the synsets it is an instance of.
        instance: whether it is a named thing, such as a person or a place.
    """

    id: str
    lemmas: tuple[str, ...]
    gloss: str
    parents: tuple[str, ...]
    instance: bool


class Lexicon(Protocol):
    """A dictionary of noun senses."""

    @property
    def complete(self) -> bool:
        """True for all of WordNet, False for the excerpt that comes with beamclip."""

    def senses(self, name: str) -> tuple[Synset, ...]:
        """Return the noun senses of a class name, most frequent first; empty if it is unknown.

        Underscores, hyphens, case and plurals do not matter, nor does a qualifier in parentheses:
        `crane_(bird)` has the senses of `crane`.
        """

    def synset(self, id: str) -> Synset:
        """Return the synset with this id.

        Raises:
            UserError: it does not exist.
        """

    def ancestors(self, id: str) -> frozenset[str]:
        """Return the ids of all hypernyms up to `entity`, and the synset's own."""

    def information_content(self, id: str) -> float:
        """Return how specific a synset is, in nats.

        It is −ln of the share of WordNet's nouns that are at or below the synset: 0 for `entity`,
        and 11.3 for a noun with nothing below it.
        """


class NounLexicon(ABC):
    """A lexicon over some source of nouns. It caches the synsets and ancestors it has read."""

    complete: bool

    def __init__(self) -> None:
        self._synsets: dict[str, Synset] = {}
        self._ancestors: dict[str, frozenset[str]] = {}

    @abstractmethod
    def synset_ids(self, form: str) -> tuple[str, ...]:
        """Return the ids of the synsets listed under a form, most frequent first.

        Args:
            form: lower case, with underscores.
        """

    @abstractmethod
    def read_synset(self, id: str) -> Synset | None:
        """Read a synset from the source, or return None if it is not there."""

    @cached_property
    @abstractmethod
    def irregular_plurals(self) -> Mapping[str, Sequence[str]]:
        """Singulars of each irregular plural."""

    @cached_property
    @abstractmethod
    def subtree_sizes(self) -> Mapping[str, int]:
        """Number of WordNet's synsets at or below a synset, by id.

        Synsets with nothing below them may be left out.
        """

    def senses(self, name: str) -> tuple[Synset, ...]:
        """See `Lexicon`."""
        forms = base_forms(name, self.irregular_plurals, lambda form: bool(self.synset_ids(form)))
        ids = [id for form in forms for id in self.synset_ids(form)]
        return tuple(self.synset(id) for id in dict.fromkeys(ids))

    def synset(self, id: str) -> Synset:
        """See `Lexicon`."""
        if id not in self._synsets:
            synset = self.read_synset(id)
            if synset is None:
                raise UserError(f"synset {id} {self._missing_reason()}")
            self._synsets[id] = synset
        return self._synsets[id]

    def ancestors(self, id: str) -> frozenset[str]:
        """See `Lexicon`."""
        if id not in self._ancestors:
            of_parents = [self.ancestors(parent) for parent in self.synset(id).parents]
            self._ancestors[id] = frozenset((id,)).union(*of_parents)
        return self._ancestors[id]

    def information_content(self, id: str) -> float:
        """See `Lexicon`."""
        return log(NOUN_SYNSETS / self.subtree_sizes.get(id, 1))

    def _missing_reason(self) -> str:
        if self.complete:
            return "does not exist in WordNet 3.0"
        return (
            f"is not among the synsets that come with beamclip; check the id, or {HOW_TO_INSTALL}"
        )

"""What a lexicon is: noun senses of WordNet 3.0, whose ids are ImageNet's."""

import re
from dataclasses import dataclass
from typing import Protocol

WORDNET_ID = re.compile(r"n\d{8}")
HOW_TO_INSTALL = "install WordNet 3.0 (Debian's wordnet-base, or `python -m nltk.downloader wordnet`)"


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

"""What every lexicon does in the same way, given a list of words and a way to read a synset."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import log

from beamclip.anchors.lexicon.forms import base_forms
from beamclip.anchors.lexicon.synsets import HOW_TO_INSTALL, Synset
from beamclip.config import UserError

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
        return tuple(self.synset(id) for id in dict.fromkeys(id for form in forms for id in self.ids(form)))

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
            self._ancestors[id] = frozenset((id,)).union(*map(self.ancestors, self.synset(id).parents))
        return self._ancestors[id]

    def information(self, id: str) -> float:
        """See `Lexicon`."""
        return log(NOUNS / self.below.get(id, 1))

    def _missing(self) -> str:
        if self.complete:
            return "does not exist in WordNet 3.0"
        return f"is not among the synsets that come with beamclip; check the id, or {HOW_TO_INSTALL}"

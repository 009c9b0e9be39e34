"""The excerpt of WordNet 3.0 that comes with beamclip: enough for ImageNet, LVIS, CIFAR and digits without WordNet installed.

It holds the place in the hierarchy of every synset of ImageNet-1K, ImageNet-21K, LVIS, CIFAR and the digits and of all their ancestors,
and all senses of the class names of these sets but ImageNet-21K's. Lemmas and definitions of ImageNet's synsets come from timm's tables.

Tab-separated lines in three parts, each sorted:

    S  id  parents  i (a named thing) or empty  synsets below where not 1  lemmas, |  definition      the last two empty where timm has them
    F  form  ids, most frequent first
    X  irregular plural  singulars
"""

import gzip
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from importlib import resources

from beamclip.anchors.lexicon import tables
from beamclip.anchors.lexicon.nouns import Nouns
from beamclip.anchors.lexicon.synsets import Synset

FILE = "wordnet.tsv.gz"


class Excerpt(Nouns):
    """A lexicon of what the package's own file holds."""

    complete = False

    @cached_property
    def _parts(self) -> dict[str, dict[str, list[str]]]:
        packed = resources.files(__package__).joinpath("data", FILE).read_bytes()
        return parts(gzip.decompress(packed).decode("utf-8").splitlines())

    def synset_ids(self) -> Iterable[str]:
        """All synsets of the excerpt."""
        return self._parts["S"]

    def forms(self) -> Iterable[str]:
        """All forms whose senses the excerpt holds."""
        return self._parts["F"]

    def ids(self, form: str) -> tuple[str, ...]:
        """See `Nouns`."""
        return tuple(self._parts["F"][form][0].split()) if form in self._parts["F"] else ()

    def read(self, id: str) -> Synset | None:
        """See `Nouns`."""
        if id not in self._parts["S"]:
            return None
        above, instance, _, words, gloss = self._parts["S"][id]
        lemmas = tuple(words.split("|")) if words else tables.lemmas()[id]
        return Synset(id, lemmas, gloss or tables.definitions()[id], tuple(above.split()), bool(instance))

    @cached_property
    def exceptions(self) -> Mapping[str, Sequence[str]]:
        """See `Nouns`."""
        return {plural: fields[0].split() for plural, fields in self._parts["X"].items()}

    @cached_property
    def below(self) -> Mapping[str, int]:
        """See `Nouns`."""
        return {id: int(fields[2]) for id, fields in self._parts["S"].items() if fields[2]}


def parts(lines: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """The fields of each line, by part and key."""
    out: dict[str, dict[str, list[str]]] = {"S": {}, "F": {}, "X": {}}
    for line in lines:
        if not line.startswith("#"):
            part, key, *fields = line.split("\t")
            out[part][key] = fields
    return out

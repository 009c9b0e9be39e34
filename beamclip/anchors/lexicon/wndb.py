"""Reader of WordNet 3.0's database files, in the format of wndb(5): index.noun, data.noun, noun.exc.

Debian's wordnet-base and NLTK's corpus hold the same three files; NLTK's stays a zip file where nobody unpacked it.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from zipfile import Path as ZipPath

from beamclip.anchors.lexicon.nouns import Nouns
from beamclip.anchors.lexicon.synsets import WORDNET_ID, Synset
from beamclip.config import UserError

Folder = Path | ZipPath
FILES = ("index.noun", "data.noun")

_VERSION = re.compile(rb"WordNet (\d[\d.]*) Copyright")
_EXAMPLES = re.compile('[;:] "')
_PARENT = re.compile(rb" @i? (\d{8}) n ")


class WordNetFiles(Nouns):
    """The whole of WordNet's nouns.

    Raises:
        UserError: the folder holds another version than 3.0, whose ids are others, or a file is cut short.
    """

    complete = True

    def __init__(self, folder: Folder) -> None:
        super().__init__()
        self.folder = folder
        self._data = self._read_whole("data.noun")
        found = _VERSION.search(self._data[:4096])
        version = found.group(1).decode().rstrip(".") if found else "of an unknown version"
        if version != "3.0":
            raise UserError(f"{folder} holds WordNet {version}, whose synset ids are not ImageNet's; beamclip needs WordNet 3.0")

    def _read_whole(self, name: str) -> bytes:
        content = (self.folder / name).read_bytes()
        if not content.endswith(b"\n"):
            raise UserError(f"{self.folder / name} is cut short; install WordNet again")
        return content

    @cached_property
    def _index(self) -> dict[str, str]:
        """What index.noun says of each form."""
        lines = self._read_whole("index.noun").decode("utf-8", "replace").splitlines()
        return {form: rest for form, _, rest in (line.partition(" ") for line in lines) if form}

    def forms(self) -> Iterator[str]:
        """All forms that WordNet lists, in its own order."""
        return iter(self._index)

    def ids(self, form: str) -> tuple[str, ...]:
        """See `Nouns`."""
        if form not in self._index:
            return ()
        fields = self._index[form].split()  # n, number of synsets, …, their offsets
        return tuple(f"n{offset}" for offset in fields[-int(fields[1]) :])

    def read(self, id: str) -> Synset | None:
        """See `Nouns`.

        Raises:
            UserError: data.noun is damaged there.
        """
        start = int(id[1:]) if WORDNET_ID.fullmatch(id) else len(self._data)
        line = self._data[start : self._data.find(b"\n", start)].decode("utf-8", "replace")
        if not line.startswith(id[1:] + " "):
            return None
        try:
            return _parse(line)
        except (IndexError, ValueError):
            raise UserError(f"{self.folder / 'data.noun'} is damaged at {id}; install WordNet again") from None

    @cached_property
    def exceptions(self) -> Mapping[str, Sequence[str]]:
        """See `Nouns`."""
        file = self.folder / "noun.exc"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return {words[0]: words[1:] for words in map(str.split, lines) if words}

    @cached_property
    def below(self) -> Mapping[str, int]:
        """See `Nouns`. One pass over data.noun, about half a second."""
        lines = (line for line in self._data.splitlines() if not line.startswith(b" "))
        return _count_below({line[:8]: _PARENT.findall(line, 0, line.find(b"|")) for line in lines})


def _count_below(parents: dict[bytes, list[bytes]]) -> dict[str, int]:
    """How many nodes lie at or below each node that is somebody's parent."""
    inner = {parent for above in parents.values() for parent in above}
    # Most nodes are leaves with one parent: they are counted there, so that only the others' ancestors have to be gathered.
    here = Counter(above[0] if len(above) == 1 and node not in inner else node for node, above in parents.items())
    known: dict[bytes, frozenset[bytes]] = {}

    def ancestors(node: bytes) -> frozenset[bytes]:
        if node not in known:
            known[node] = frozenset((node,)).union(*map(ancestors, parents[node]))
        return known[node]

    counts: Counter[bytes] = Counter()
    for node, count in here.items():
        counts.update(dict.fromkeys(ancestors(node), count))
    return {f"n{node.decode()}": counts[node] for node in inner}


def _parse(line: str) -> Synset:
    head, _, gloss = line.partition(" | ")
    offset, _file, _kind, count, *fields = head.split()
    words = int(count, 16)
    lemmas = tuple(word.replace("_", " ") for word in fields[: 2 * words : 2])
    pointers = fields[2 * words + 1 :]
    if not lemmas or len(pointers) != 4 * int(fields[2 * words]):
        raise ValueError(line)
    above = [(symbol, target) for symbol, target in zip(pointers[::4], pointers[1::4], strict=True) if symbol in ("@", "@i")]
    instance = any(symbol == "@i" for symbol, _ in above)
    return Synset(f"n{offset}", lemmas, _definition(gloss), tuple(f"n{target}" for _, target in above), instance)


def _definition(gloss: str) -> str:
    """A gloss without its examples, which follow as `; "an example"`."""
    return _EXAMPLES.split(gloss, maxsplit=1)[0].strip(" ;")

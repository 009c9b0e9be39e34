"""Which lexicon there is on this machine."""

import gzip
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from importlib import resources
from logging import getLogger
from pathlib import Path
from zipfile import BadZipFile
from zipfile import Path as ZipPath

from beamclip.anchors.wordnet import imagenet_tables as tables
from beamclip.anchors.wordnet.lexicon import WORDNET_ID, Lexicon, Nouns, Synset
from beamclip.config import UserError

# Reader of WordNet 3.0's database files, in the format of wndb(5): index.noun, data.noun, noun.exc.
#
# Debian's wordnet-base and NLTK's corpus hold the same three files; NLTK's stays a zip file where nobody unpacked it.


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
            raise UserError(
                f"{folder} holds WordNet {version}, whose synset ids are not ImageNet's; beamclip needs WordNet 3.0"
            )

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
            raise UserError(
                f"{self.folder / 'data.noun'} is damaged at {id}; install WordNet again"
            ) from None

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
    here = Counter(
        above[0] if len(above) == 1 and node not in inner else node
        for node, above in parents.items()
    )
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
    above = [
        (symbol, target)
        for symbol, target in zip(pointers[::4], pointers[1::4], strict=True)
        if symbol in ("@", "@i")
    ]
    instance = any(symbol == "@i" for symbol, _ in above)
    return Synset(
        f"n{offset}",
        lemmas,
        _definition(gloss),
        tuple(f"n{target}" for _, target in above),
        instance,
    )


def _definition(gloss: str) -> str:
    """A gloss without its examples, which follow as `; "an example"`."""
    return _EXAMPLES.split(gloss, maxsplit=1)[0].strip(" ;")


# The excerpt of WordNet 3.0 that comes with beamclip: enough for ImageNet, LVIS, CIFAR and digits without WordNet installed.
#
# It holds the place in the hierarchy of every synset of ImageNet-1K, ImageNet-21K, LVIS, CIFAR and the digits and of all their ancestors,
# and all senses of the class names of these sets but ImageNet-21K's. Lemmas and definitions of ImageNet's synsets come from timm's tables.
#
# Tab-separated lines in three parts, each sorted:
#
#     S  id  parents  i (a named thing) or empty  synsets below where not 1  lemmas, |  definition   (last two: empty where timm has them)
#     F  form  ids, most frequent first
#     X  irregular plural  singulars


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
        return Synset(
            id, lemmas, gloss or tables.definitions()[id], tuple(above.split()), bool(instance)
        )

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


_log = getLogger(__name__)


@cache
def open_lexicon() -> Lexicon:
    """The whole of WordNet 3.0 where it is installed, else the excerpt that comes with beamclip.

    Looked for in $WNSEARCHDIR, $WNHOME/dict, Debian's folder and NLTK's data folders. Folders that hold another version are passed over
    with a warning, unless a variable names them.

    Raises:
        UserError: $WNSEARCHDIR or $WNHOME names a folder without WordNet 3.0.
    """
    return _named() or _found() or Excerpt()


def _named() -> Lexicon | None:
    for variable, inside in (("WNSEARCHDIR", ""), ("WNHOME", "dict")):
        if os.environ.get(variable):
            folder = Path(os.environ[variable], inside)
            if not _is_wordnet(folder):
                raise UserError(
                    f"${variable} says that WordNet is in {folder}, which has no {' and '.join(FILES)}; mend or unset it"
                )
            return WordNetFiles(folder)
    return None


def _found() -> Lexicon | None:
    for place in _usual_places():
        try:
            folder = (
                ZipPath(place, "wordnet/") if place.suffix == ".zip" and place.is_file() else place
            )
            if _is_wordnet(folder):
                return WordNetFiles(folder)
        except (UserError, OSError, BadZipFile) as error:
            _log.warning("WordNet passed over: %s", error)
    return None


def _usual_places() -> Iterator[Path]:
    yield from (Path("/usr/share/wordnet"), Path("/usr/local/WordNet-3.0/dict"))
    own = [Path(folder) for folder in os.environ.get("NLTK_DATA", "").split(os.pathsep) if folder]
    roots = [Path.home(), Path(sys.prefix), Path(sys.prefix, "share"), Path(sys.prefix, "lib")]
    system = [
        Path("/usr/share"),
        Path("/usr/local/share"),
        Path("/usr/lib"),
        Path("/usr/local/lib"),
    ]
    for folder in (*own, *(root / "nltk_data" for root in (*roots, *system))):
        yield folder / "corpora" / "wordnet"
        yield folder / "corpora" / "wordnet.zip"  # NLTK leaves this one packed


def _is_wordnet(folder: Folder) -> bool:
    return all((folder / name).is_file() for name in FILES)

"""Open a lexicon: all of WordNet 3.0 if it is installed, else beamclip's own excerpt of it.

**WordNet's database files** are index.noun, data.noun and noun.exc, in the format of wndb(5).
Debian's wordnet-base and NLTK's corpus contain the same three files; NLTK's may be in a zip file.

**The excerpt** is enough for ImageNet, LVIS, CIFAR and the digits, so that these need no
installation of WordNet. It contains

- every synset of ImageNet-1K, ImageNet-21K, LVIS, CIFAR and the digits, with all ancestors
- all senses of the class names of these data sets, except ImageNet-21K's

Lemmas and definitions of ImageNet's synsets are read from timm's tables. The excerpt's
tab-separated lines are in three parts, each sorted:

    S  id  parents  "i" for a named thing  synsets below, if not 1  lemmas, joined by |  definition
    F  form  ids, most frequent first
    X  irregular plural  singulars

Lemmas or definition are empty if timm's table has the same ones.
"""

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
from beamclip.anchors.wordnet.lexicon import WORDNET_ID, Lexicon, NounLexicon, Synset
from beamclip.config import UserError

Folder = Path | ZipPath
REQUIRED_FILES = ("index.noun", "data.noun")
EXCERPT_FILE = "wordnet.tsv.gz"

_VERSION = re.compile(rb"WordNet (\d[\d.]*) Copyright")
_EXAMPLES = re.compile('[;:] "')
_PARENT = re.compile(rb" @i? (\d{8}) n ")
_log = getLogger(__name__)


@cache
def open_lexicon() -> Lexicon:
    """Return all of WordNet 3.0 if it is installed, else the excerpt that comes with beamclip.

    WordNet is searched for in $WNSEARCHDIR, $WNHOME/dict, Debian's folder and NLTK's data folders,
    in this order. Folders with another version are skipped with a warning.

    Raises:
        UserError: $WNSEARCHDIR or $WNHOME is set, but its folder does not contain WordNet 3.0.
    """
    return _open_named_by_environment() or _open_installed() or Excerpt()


def _open_named_by_environment() -> Lexicon | None:
    for variable, subfolder in (("WNSEARCHDIR", ""), ("WNHOME", "dict")):
        if os.environ.get(variable):
            folder = Path(os.environ[variable], subfolder)
            if not _has_wordnet(folder):
                raise UserError(
                    f"${variable} says that WordNet is in {folder}, "
                    f"which has no {' and '.join(REQUIRED_FILES)}; correct or unset it"
                )
            return WordNetFiles(folder)
    return None


def _open_installed() -> Lexicon | None:
    for path in _usual_paths():
        try:
            is_zip = path.suffix == ".zip" and path.is_file()
            folder = ZipPath(path, "wordnet/") if is_zip else path
            if _has_wordnet(folder):
                return WordNetFiles(folder)
        except (UserError, OSError, BadZipFile) as error:
            _log.warning("WordNet skipped: %s", error)
    return None


def _usual_paths() -> Iterator[Path]:
    """Yield the paths that Debian, WordNet's installer and NLTK use, in search order."""
    yield Path("/usr/share/wordnet")
    yield Path("/usr/local/WordNet-3.0/dict")
    folders_in_environment = os.environ.get("NLTK_DATA", "").split(os.pathsep)
    nltk_folders = [Path(folder) for folder in folders_in_environment if folder]
    # The folders that NLTK itself searches.
    for root in (
        Path.home(),
        Path(sys.prefix),
        Path(sys.prefix, "share"),
        Path(sys.prefix, "lib"),
        Path("/usr/share"),
        Path("/usr/local/share"),
        Path("/usr/lib"),
        Path("/usr/local/lib"),
    ):
        nltk_folders.append(root / "nltk_data")
    for folder in nltk_folders:
        yield folder / "corpora" / "wordnet"
        # NLTK's downloader does not unpack this one.
        yield folder / "corpora" / "wordnet.zip"


def _has_wordnet(folder: Folder) -> bool:
    return all((folder / name).is_file() for name in REQUIRED_FILES)


# --- WordNet's own files ---


class WordNetFiles(NounLexicon):
    """All of WordNet's nouns, read from its database files.

    Raises:
        UserError: the folder has another version than 3.0, whose ids differ, or a file is cut
            short.
    """

    complete = True

    def __init__(self, folder: Folder) -> None:
        super().__init__()
        self.folder = folder
        self._data = self._read_file("data.noun")
        match = _VERSION.search(self._data[:4096])
        version = match.group(1).decode().rstrip(".") if match else "of an unknown version"
        if version != "3.0":
            raise UserError(
                f"{folder} holds WordNet {version}, whose synset ids are not ImageNet's; "
                "beamclip needs WordNet 3.0"
            )

    def forms(self) -> Iterator[str]:
        """Yield all forms that WordNet lists, in its own order."""
        return iter(self._index)

    def synset_ids(self, form: str) -> tuple[str, ...]:
        """See `NounLexicon`."""
        if form not in self._index:
            return ()
        # The fields are "n", the number of synsets, others, and at the end the synsets' offsets.
        fields = self._index[form].split()
        return tuple(f"n{offset}" for offset in fields[-int(fields[1]) :])

    def read_synset(self, id: str) -> Synset | None:
        """See `NounLexicon`.

        Raises:
            UserError: data.noun is damaged there.
        """
        # An id is the byte offset of the synset's line in data.noun.
        if not WORDNET_ID.fullmatch(id):
            return None
        start = int(id[1:])
        line = self._data[start : self._data.find(b"\n", start)].decode("utf-8", "replace")
        # An offset into the middle of a line is not an id. Each line starts with its own offset.
        if not line.startswith(id[1:] + " "):
            return None
        try:
            return _parse_synset(line)
        except (IndexError, ValueError):
            raise UserError(
                f"{self.folder / 'data.noun'} is damaged at {id}; install WordNet again"
            ) from None

    @cached_property
    def irregular_plurals(self) -> Mapping[str, Sequence[str]]:
        """See `NounLexicon`."""
        file = self.folder / "noun.exc"
        if not file.exists():
            return {}
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
        return {words[0]: words[1:] for words in lines if words}

    @cached_property
    def subtree_sizes(self) -> Mapping[str, int]:
        """See `NounLexicon`. Reads data.noun once, in about half a second."""
        parents = {}
        for line in self._data.splitlines():
            # The license at the top of the file is indented.
            if not line.startswith(b" "):
                parents[line[:8]] = _PARENT.findall(line, 0, line.find(b"|"))
        return _count_subtrees(parents)

    @cached_property
    def _index(self) -> dict[str, str]:
        """Rest of the line in index.noun, by form, which is the line's first field."""
        index = {}
        for line in self._read_file("index.noun").decode("utf-8", "replace").splitlines():
            form, _, rest = line.partition(" ")
            # The license at the top of the file is indented.
            if form:
                index[form] = rest
        return index

    def _read_file(self, name: str) -> bytes:
        content = (self.folder / name).read_bytes()
        # WordNet's files end with a line break, unless the end is missing.
        if not content.endswith(b"\n"):
            raise UserError(f"{self.folder / name} is cut short; install WordNet again")
        return content


def _count_subtrees(parents: dict[bytes, list[bytes]]) -> dict[str, int]:
    """Return the number of nodes at or below each node that has children.

    Args:
        parents: the parents of each node.
    """
    inner_nodes: set[bytes] = set()
    for parents_of_node in parents.values():
        inner_nodes.update(parents_of_node)
    # Most nodes are leaves with one parent. They are counted at that parent, so that ancestors are
    # collected only for the others, which is faster.
    counts_at: Counter[bytes] = Counter()
    for node, parents_of_node in parents.items():
        is_simple_leaf = len(parents_of_node) == 1 and node not in inner_nodes
        counts_at[parents_of_node[0] if is_simple_leaf else node] += 1
    ancestors_of: dict[bytes, frozenset[bytes]] = {}

    def ancestors(node: bytes) -> frozenset[bytes]:
        if node not in ancestors_of:
            of_parents = [ancestors(parent) for parent in parents[node]]
            ancestors_of[node] = frozenset((node,)).union(*of_parents)
        return ancestors_of[node]

    sizes: Counter[bytes] = Counter()
    for node, count in counts_at.items():
        sizes.update(dict.fromkeys(ancestors(node), count))
    return {f"n{node.decode()}": sizes[node] for node in inner_nodes}


def _parse_synset(line: str) -> Synset:
    """Parse a line of data.noun.

    Raises:
        IndexError, ValueError: the line is damaged.
    """
    head, _, gloss = line.partition(" | ")
    offset, _file, _kind, word_count, *fields = head.split()
    # The word count is hexadecimal; every word is followed by a number, every pointer has four
    # fields.
    words = int(word_count, 16)
    lemmas = tuple(word.replace("_", " ") for word in fields[: 2 * words : 2])
    pointers = fields[2 * words + 1 :]
    if not lemmas or len(pointers) != 4 * int(fields[2 * words]):
        raise ValueError(line)
    parents = []
    instance = False
    for symbol, target in zip(pointers[::4], pointers[1::4], strict=True):
        if symbol in ("@", "@i"):
            parents.append(f"n{target}")
            instance = instance or symbol == "@i"
    return Synset(f"n{offset}", lemmas, _definition(gloss), tuple(parents), instance)


def _definition(gloss: str) -> str:
    """Return a gloss without its examples, which follow as `; "an example"`."""
    return _EXAMPLES.split(gloss, maxsplit=1)[0].strip(" ;")


# --- The excerpt that comes with beamclip ---


class Excerpt(NounLexicon):
    """The lexicon in the package's own file."""

    complete = False

    def all_synset_ids(self) -> Iterable[str]:
        """Return the ids of all synsets of the excerpt."""
        return self._parts["S"]

    def forms(self) -> Iterable[str]:
        """Return all forms whose senses are in the excerpt."""
        return self._parts["F"]

    def synset_ids(self, form: str) -> tuple[str, ...]:
        """See `NounLexicon`."""
        ids_of_form = self._parts["F"]
        return tuple(ids_of_form[form][0].split()) if form in ids_of_form else ()

    def read_synset(self, id: str) -> Synset | None:
        """See `NounLexicon`."""
        if id not in self._parts["S"]:
            return None
        parents, instance, _, lemmas, gloss = self._parts["S"][id]
        return Synset(
            id,
            tuple(lemmas.split("|")) if lemmas else tables.lemmas()[id],
            gloss or tables.definitions()[id],
            tuple(parents.split()),
            bool(instance),
        )

    @cached_property
    def irregular_plurals(self) -> Mapping[str, Sequence[str]]:
        """See `NounLexicon`."""
        return {plural: fields[0].split() for plural, fields in self._parts["X"].items()}

    @cached_property
    def subtree_sizes(self) -> Mapping[str, int]:
        """See `NounLexicon`."""
        return {id: int(fields[2]) for id, fields in self._parts["S"].items() if fields[2]}

    @cached_property
    def _parts(self) -> dict[str, dict[str, list[str]]]:
        """Fields of each line, by part (S, F or X) and key (the second column)."""
        packed = resources.files(__package__).joinpath("data", EXCERPT_FILE).read_bytes()
        parts: dict[str, dict[str, list[str]]] = {"S": {}, "F": {}, "X": {}}
        for line in gzip.decompress(packed).decode("utf-8").splitlines():
            if not line.startswith("#"):
                part, key, *fields = line.split("\t")
                parts[part][key] = fields
        return parts

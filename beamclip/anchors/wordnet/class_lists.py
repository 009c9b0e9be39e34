"""Classes by name, with what is known of their sense: from a list of the user's, or because the names are a well-known data set's."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from beamclip.anchors.wordnet.lexicon import WORDNET_ID
from beamclip.config import UserError
from beamclip.data.class_names import normalize_name

ALMOST_AN_ID = re.compile(
    r"(?:wn\d*:)?[nvars]?\d{4,}(?:-[nvars])?|\w+\.[nvars]\.\d+", re.IGNORECASE
)


@dataclass(frozen=True)
class ClassName:
    """A class and, where somebody said so, its sense.

    Attributes:
        name: as the data set spells it.
        synset: WordNet 3.0 id.
        context: free text of the user's that says what is meant.
    """

    name: str
    synset: str | None = None
    context: str | None = None


@dataclass(frozen=True)
class KnownSet:
    """The classes of a well-known data set.

    Attributes:
        title: such as `CIFAR-10`.
        synsets: the id of each accepted spelling of each class.
    """

    title: str
    synsets: dict[str, str]


def read_class_list(path: Path, key: str) -> tuple[ClassName, ...]:
    """Classes from a text file, one a line: `name`, `name<TAB>n02012849` or `name<TAB>free text`.

    Args:
        key: the setting that names the file, for messages.

    Raises:
        UserError: the file can't be read or is not UTF-8, or a line has no name, more than two fields, a malformed id or a class twice.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").rstrip().splitlines()
    except OSError as error:
        raise UserError(
            f"{key} {path} can't be read ({error.strerror}); give a text file"
        ) from None
    except UnicodeDecodeError:
        raise UserError(
            f"{key} {path} is not UTF-8; save it as UTF-8 text, one class name a line"
        ) from None
    if not lines:
        raise UserError(f"{key} {path} is empty; write one class name a line")
    classes = tuple(
        _parse(line, f"{key} {path} line {number}") for number, line in enumerate(lines, 1)
    )
    check_classes(classes, f"{key} {path}")
    return classes


def check_classes(classes: Sequence[ClassName], where: str) -> None:
    """Classes may share a name only where each has its own synset or context.

    Raises:
        UserError: an empty name, or a name that stands for two classes. The sentence begins with `where`.
    """
    same: dict[str, list[ClassName]] = defaultdict(list)
    for number, one in enumerate(classes):
        if not one.name.strip():
            raise UserError(
                f"{where} has an empty name for class {number}; give every class a name"
            )
        same[normalize_name(one.name)].append(one)
    for group in same.values():
        senses = {one.synset or one.context for one in group}
        if len(group) > 1 and (None in senses or len(senses) < len(group)):
            name = group[0].name
            raise UserError(
                f"{where} has {name!r} {len(group)} times; say which is which: a tab and its WordNet id after each name"
            )


def known_set(names: Sequence[str]) -> KnownSet | None:
    """The well-known data set that has exactly these classes, in any order and any of their usual spellings."""
    spelled = {normalize_name(name) for name in names}
    for known in _known_sets():
        ids = {known.synsets.get(name) for name in spelled}
        if None not in ids and len(ids) == len(spelled) == len(names) == len(
            set(known.synsets.values())
        ):
            return known
    return None


def known_synsets(names: Sequence[str]) -> tuple[str | None, ...]:
    """WordNet ids of the classes of CIFAR-10, CIFAR-100, Imagenette or the ten digits; all None for any other set of names."""
    known = known_set(names)
    return tuple(known.synsets[normalize_name(name)] if known else None for name in names)


def table_rows(name: str) -> Iterator[list[str]]:
    """The fields of each line of a tab-separated table of the package's own, without its comments."""
    text = resources.files(__package__).joinpath("data", name).read_text(encoding="utf-8")
    return (line.split("\t") for line in text.splitlines() if not line.startswith("#"))


def _parse(line: str, where: str) -> ClassName:
    name, *rest = (field.strip() for field in line.rstrip("\t ").split("\t"))
    if not name:
        raise UserError(
            f"{where} has no class name; write a name, or a name, a tab and a WordNet id or a context"
        )
    if len(rest) > 1:
        raise UserError(
            f"{where} has {len(rest) + 1} fields; write a name, or a name, a tab and a WordNet id or a context"
        )
    second = rest[0] if rest else None
    if second and WORDNET_ID.fullmatch(second):
        return ClassName(name, synset=second)
    if second and ALMOST_AN_ID.fullmatch(second):
        raise UserError(
            f"{where} has {second!r}, which is no WordNet id; one is n and eight digits, such as n02012849"
        )
    return ClassName(name, context=second)


@cache
def _known_sets() -> tuple[KnownSet, ...]:
    sets: dict[str, dict[str, str]] = defaultdict(dict)
    for title, spellings, id in table_rows("classes.tsv"):
        sets[title] |= {normalize_name(spelling): id for spelling in spellings.split("|")}
    return tuple(KnownSet(title, synsets) for title, synsets in sets.items())

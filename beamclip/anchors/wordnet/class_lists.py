"""Read class names together with what is given about their senses.

A class list is the user's text file. The table of well-known data sets comes with beamclip.

`beamclip.data.class_names` reads the same file for `data.class_names`, but only for the names,
before WordNet is opened: it ignores the text after a tab, refuses two equal lines, and takes the
same name twice if the lines differ. This module reads the second column, checks its ids, and
refuses a name twice unless each has its own sense.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from beamclip.anchors.wordnet.lexicon import WORDNET_ID
from beamclip.config import UserError
from beamclip.data.class_names import names_in_list, normalize_name
from beamclip.data.list_formats import Line, parse_class_list

MALFORMED_ID = re.compile(
    r"(?:wn\d*:)?[nvars]?\d{4,}(?:-[nvars])?|\w+\.[nvars]\.\d+", re.IGNORECASE
)
"""Matches texts that are meant as synset ids, in any notation, correct ones included."""

_LINE_FORMAT = "write a name, or a name, a tab and a WordNet id or a context"


@dataclass(frozen=True)
class ClassName:
    """A class, with its sense if that is given.

    Attributes:
        name: the name as the data set spells it.
        synset: WordNet 3.0 id.
        context: free text that says what is meant.
    """

    name: str
    synset: str | None = None
    context: str | None = None


@dataclass(frozen=True)
class KnownDataset:
    """The classes of a well-known data set.

    Attributes:
        title: such as `CIFAR-10`.
        synsets: WordNet id by normalized name, for each accepted spelling of each class.
    """

    title: str
    synsets: dict[str, str]


def read_class_list(path: Path, key: str) -> tuple[ClassName, ...]:
    """Read classes from a text file, one per line: `name`, `name<TAB>n02012849` or `name<TAB>text`.

    `beamclip.data.list_formats` says which other forms of lists are read.

    Args:
        path: the file, in UTF-8.
        key: the setting that names the file, for messages.

    Raises:
        UserError: the file can't be read or is not UTF-8; a line has no name, more than two fields
            or a malformed id; or as `check_classes`.
    """
    where = f"{key} {path}"
    try:
        # utf-8-sig: skips the byte order mark that editors on Windows put first.
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{where} can't be read ({error.strerror}); give a text file") from None
    except UnicodeDecodeError:
        raise UserError(
            f"{where} is not UTF-8; save it as UTF-8 text, one class name per line"
        ) from None
    if not text.strip():
        raise UserError(f"{where} is empty; write one class name per line")
    # A list or dictionary in brackets may have empty lines.
    lines = [] if text.lstrip().startswith(("[", "{")) else text.rstrip().splitlines()
    for number, text_of_line in enumerate(lines, start=1):
        if not text_of_line.partition("\t")[0].strip():
            raise UserError(f"{where} line {number} has no class name; {_LINE_FORMAT}")
    listed = parse_class_list(text, where)
    classes = []
    for name, line in zip(names_in_list(listed), listed.lines, strict=True):
        # An id that is not behind a tab says what is meant, and the rest of the line no more.
        if line.key:
            classes.append(ClassName(name, synset=line.key))
        else:
            classes.append(_class_in_line(line))
    check_classes(classes, where)
    return tuple(classes)


def _class_in_line(line: Line) -> ClassName:
    name, senses, where = line.name, line.rest, line.where
    if len(senses) > 1:
        raise UserError(f"{where} has {len(senses) + 1} fields; {_LINE_FORMAT}")
    if not senses:
        return ClassName(name)
    sense = senses[0]
    if WORDNET_ID.fullmatch(sense):
        return ClassName(name, synset=sense)
    if MALFORMED_ID.fullmatch(sense):
        raise UserError(
            f"{where} has {sense!r}, which is not a WordNet id; "
            "ids are n and eight digits, such as n02012849"
        )
    return ClassName(name, context=sense)


def check_classes(classes: Sequence[ClassName], where: str) -> None:
    """Check that no name is empty, and that classes of the same name can be told apart.

    Classes may share a name only if each has its own synset or context.

    Args:
        classes: the classes in label order.
        where: what messages call the source of the names.

    Raises:
        UserError: a name is empty, or classes share a name without a synset or context of their
            own.
    """
    by_name: dict[str, list[ClassName]] = defaultdict(list)
    for label, class_name in enumerate(classes):
        if not class_name.name.strip():
            raise UserError(f"{where} has an empty name for class {label}; give every class a name")
        by_name[normalize_name(class_name.name)].append(class_name)
    for group in by_name.values():
        if len(group) == 1:
            continue
        senses = {class_name.synset or class_name.context for class_name in group}
        if None in senses or len(senses) < len(group):
            raise UserError(
                f"{where} has {group[0].name!r} {len(group)} times; "
                "say which is which: put a tab and its WordNet id after each name"
            )


def find_known_dataset(names: Sequence[str]) -> KnownDataset | None:
    """Return the well-known data set with exactly these classes, or None.

    Args:
        names: class names in any order, in any of their usual spellings.
    """
    spellings = {normalize_name(name) for name in names}
    # Names must not repeat, not even in two spellings.
    if len(spellings) != len(names):
        return None
    for dataset in _known_datasets():
        ids = {dataset.synsets.get(spelling) for spelling in spellings}
        # The names cover all classes, and no two of them are spellings of the same class.
        if ids == set(dataset.synsets.values()) and len(ids) == len(spellings):
            return dataset
    return None


def known_dataset_synsets(names: Sequence[str]) -> tuple[str | None, ...]:
    """Return the WordNet ids of the classes of CIFAR-10, CIFAR-100, Imagenette or the ten digits.

    They are all None for any other set of names.
    """
    dataset = find_known_dataset(names)
    if dataset is None:
        return (None,) * len(names)
    return tuple(dataset.synsets[normalize_name(name)] for name in names)


@cache
def _known_datasets() -> tuple[KnownDataset, ...]:
    synsets_of: dict[str, dict[str, str]] = defaultdict(dict)
    for title, spellings, id in read_table("classes.tsv"):
        for spelling in spellings.split("|"):
            synsets_of[title][normalize_name(spelling)] = id
    return tuple(KnownDataset(title, synsets) for title, synsets in synsets_of.items())


def read_table(name: str) -> Iterator[list[str]]:
    """Yield the fields of each line, except comments, of one of the package's .tsv tables."""
    text = resources.files(__package__).joinpath("data", name).read_text(encoding="utf-8")
    for line in text.splitlines():
        if not line.startswith("#"):
            yield line.split("\t")

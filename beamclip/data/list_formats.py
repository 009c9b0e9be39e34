"""Read lists of class names in the forms in which people have them.

Other than one name per line, these are: WordNet ids, alone or with words (`n01440764 tench`,
`n01440764<TAB>tench, Tinca tinca`); numbered lines (`0 tench`, `0: 'tench',`, `airplane 0`); quoted
lines; JSON or Python lists and dictionaries; and YOLO's YAML. A number is a label and an id is a
key, never part of a name: in a prompt, the teacher expects a word in its place.
"""

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from beamclip.config import UserError

_ID = r"n\d{8}"
_ID_FIRST = re.compile(rf"({_ID})(?:[\s:,;|=._-]+(.*))?")
_ID_LAST = re.compile(rf"(.*\S)(?:\s*[,;:|(\[]\s*| +)({_ID})[)\]]?")
_NUMBER_FIRST = re.compile(r"(\d+)(\s*(?:[:|;)]|[=-]>|=)\s*|\s*,\s*|\.\s*|\s+-\s+|\s+)(\S.*)")
_SIGNS = (":", "=", "|", ";", ")", "=>", "->")
_NUMBER_LAST = re.compile(r"(.*\S)(?:\s*[:=|;,]\s*|\s+)(\d+)")
# One string, not several: a mark inside is followed by no comma or colon.
_STRING = r"(['\"])(?:(?!\{0}\s*[,:]).)*\{0}"
_ENTRY_OF_DICT = re.compile(rf"\{{?\s*['\"]?(\d+)['\"]?\s*:\s*({_STRING.format(3)})\s*,?\s*\}}?")
_QUOTED = re.compile(rf"[\[({{]?\s*({_STRING.format(2)})\s*,?\s*[\])}}]?")
_ASSIGNMENT = re.compile(r"\w+\s*=\s*(?=[\[{])")
_NAMES_IN_YAML = re.compile(r"^names\s*:", re.MULTILINE)
_SEPARATORS = re.compile(r"[\s,;|]+")
_HEADINGS = {"id", "index", "idx", "wnid", "synset", "number"}
_NAME_HEADINGS = {"name", "names", "class", "class_name", "classname", "label", "words", "category"}
# What no class name begins with: comments, markup, and parts of JSON or of a table.
_NO_NAME = re.compile(
    r"#\s|[<{|]|\[.*[,'\"].*\]$|version https://git-lfs|(['\"]).*\1\s*,\s*['\"]|.*[\x00-\x08\x0e-\x1f]"
)
# Places365: `/a/airplane_cabin 1`.
_PLACE = re.compile(r"/[a-z]/(\S.*)")
_MIN_NUMBERED_LAST = 3
"""Fewer lines that end with numbers may be names: `Formula 1`, `Halo 2`."""


@dataclass(frozen=True)
class Line:
    """One class of a list.

    Attributes:
        name: as it is listed; empty if there is only a WordNet id.
        key: the WordNet id before the name, after it or in its place.
        rest: the fields after the name and a tab, which say what is meant.
        number: the label in the line.
        where: the line, for messages.
    """

    name: str
    key: str | None
    rest: tuple[str, ...]
    number: int | None
    where: str


@dataclass(frozen=True)
class ClassList:
    """A list of classes.

    Attributes:
        lines: sorted by their numbers if they have any, else as they are written.
        form: how the list was read, in a few words.
        where: the list's own name, for messages.
    """

    lines: tuple[Line, ...]
    form: str
    where: str

    @property
    def numbers(self) -> tuple[int, ...] | None:
        """The labels in the lines; None if they have none."""
        numbers = tuple(line.number for line in self.lines if line.number is not None)
        return numbers if numbers else None

    @property
    def keys(self) -> tuple[str | None, ...]:
        """The WordNet ids that are not behind a tab; None for lines without one."""
        return tuple(line.key for line in self.lines)


def check_counts_up(numbers: Sequence[int], where: str) -> None:
    """Raise UserError if the numbers of a list's lines don't count from 0 or 1."""
    if not _counts_up(numbers):
        start = min(numbers[0], 1)
        missing = set(range(start, start + len(numbers))) - set(numbers)
        problem = f"none with the number {min(missing)}" if missing else "too few"
        raise UserError(
            f"{where} has numbered lines, but {problem}; number them from 0 or 1 without a gap, "
            "or remove the numbers"
        )


def parse_class_list(text: str, where: str) -> ClassList:
    """Return the classes in the text of a list.

    Args:
        text: of the file.
        where: the file's name, for messages.

    Raises:
        UserError: there are no lines, or a line is empty; some lines are numbered and others are
            not; or JSON holds something else than class names.
    """
    entries = _entries_of_structure(text, where)
    form = "" if entries is None else "a list or dictionary"
    if entries is None:
        entries, form = _entries_of_lines(text, where)
    numbers = [number for number, _ in entries if number is not None]
    texts = [entry for _, entry in entries]
    found = numbers or None
    if found is None:
        found, texts = _take_numbers(texts, where)
        # CUB's list numbers the names of its folders, which have numbers: `1 001.Albatross`.
        again, shorter = _take_numbers(texts, where) if found else (None, texts)
        texts = shorter if again == found else texts
    _check_names(texts, where)
    lines = []
    for place, entry in enumerate(texts):
        lines.append(_parse_line(entry, f"{where} line {place + 1}"))
    # Caffe's list of ImageNet: `n02119789 1 kit_fox`. There may be tabs between the three.
    if found is None and all(line.key and line.name for line in lines):
        found, names = _take_numbers(["\t".join((line.name, *line.rest)) for line in lines], where)
        if found is not None:
            fields = [name.split("\t") for name in names]
            split = zip(lines, fields, strict=True)
            lines = [replace(line, name=name, rest=tuple(rest)) for line, (name, *rest) in split]
    if found is not None:
        numbered = zip(found, lines, strict=True)
        lines = [replace(line, number=number) for number, line in numbered]
        lines.sort(key=lambda line: line.number or 0)
    return ClassList(tuple(lines), _describe(lines, form), where)


def _describe(lines: Sequence[Line], form: str) -> str:
    """Return how a list was read, in a few words."""
    words = [form] if form else []
    numbers = [line.number for line in lines if line.number is not None]
    if numbers:
        words.append(f"numbered from {min(numbers)}")
    if any(line.key for line in lines):
        alone = all(not line.name for line in lines)
        words.append("WordNet ids" if alone else "WordNet ids and names")
    return ", ".join(words) or "one name per line"


_Entry = tuple[int | None, str]
"""Label and text of a class. All classes of a list have a label, or none has."""


def _entries_of_structure(text: str, where: str) -> list[_Entry] | None:
    """Return the entries of a JSON or Python list or dictionary; None if the text is neither.

    Raises:
        UserError: it holds something else than class names.
    """
    text = text.strip()
    if _NAMES_IN_YAML.search(text):
        return _entries_of_yaml(text, where)
    text = text[match.end() :] if (match := _ASSIGNMENT.match(text)) else text
    if not text.startswith(("[", "{")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            # Evaluates constants alone; it runs nothing.
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return None
    return _checked(_entries_of_value(value), where)


def _entries_of_yaml(text: str, where: str) -> list[_Entry]:
    """Return the entries in the `names` of a data set's YAML, as YOLO has it.

    Raises:
        UserError: it is no YAML, or its `names` hold something else than class names.
    """
    try:
        # A loader that makes text, so that a class called `no` or `1` stays one.
        value = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
        value = None
    return _checked(_entries_of_value(value), where)


def _checked(entries: list[_Entry] | None, where: str) -> list[_Entry]:
    """Return the entries. Raise UserError if there are none."""
    if not entries:
        raise UserError(
            f"{where} is a list or dictionary that holds no class names; write one class name a "
            'line, or {"0": "tench", …}'
        )
    return entries


def _entries_of_value(value: Any) -> list[_Entry] | None:
    """Return the entries of a value that was read from JSON or Python; None if it has none."""
    if isinstance(value, list | tuple):
        texts = [_text_of_value(item) for item in value]
        return None if None in texts else [(None, text) for text in texts if text is not None]
    if not isinstance(value, dict):
        return None
    for key in ("id2label", "names"):
        if isinstance(value.get(key), dict | list):
            return _entries_of_value(value[key])
    # Names to labels, as torchvision's `class_to_idx`.
    if all(type(label) is int for label in value.values()):
        return [(label, str(name)) for name, label in value.items()]
    texts = [_text_of_value(item) for item in value.values()]
    keys = [str(key).strip() for key in value]
    if None in texts:
        return None
    pairs = list(zip(keys, [text or "" for text in texts], strict=True))
    if all(key.isdecimal() for key in keys):
        return [(int(key), text) for key, text in pairs]
    if all(re.fullmatch(_ID, key) for key in keys):
        return [(None, f"{key} {text}") for key, text in pairs]
    return None


def _text_of_value(value: Any) -> str | None:
    """Return a class's text: a string, or its id or first word with others; None otherwise."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        first, *others = value
        separator = " " if re.fullmatch(_ID, first) else ", "
        return separator.join([first, ", ".join(others)]) if others else first
    return None


def _entries_of_lines(text: str, where: str) -> tuple[list[_Entry], str]:
    """Return the entries of the lines of a text, and the form of the lines.

    Raises:
        UserError: there are no lines, or one is empty.
    """
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not lines or "" in lines:
        line = lines.index("") + 1 if lines else 1
        raise UserError(
            f"{where} is empty in line {line}; write one class name per line, in label order"
        )
    _check_no_heading(lines, where)
    # Every line may end as an entry of a table does.
    if len(lines) > 1 and all(re.fullmatch(r"[^'\",;]+[,;]", line) for line in lines):
        lines = [line[:-1].rstrip() for line in lines]
    # The brackets of a dictionary that is not complete.
    inner = [line for line in lines if line not in ("{", "}", "[", "]")] or lines
    matches = [_ENTRY_OF_DICT.fullmatch(line) for line in inner]
    if all(matches):
        entries: list[_Entry] = []
        for match in matches:
            assert match is not None
            entries.append((int(match.group(1)), _unquote(match.group(2))))
        return entries, "a dictionary"
    quoted = [_QUOTED.fullmatch(line) for line in inner]
    if all(quoted):
        return [(None, _unquote(match.group(1))) for match in quoted if match], "quoted names"
    if len(lines) > 1 and all(line.startswith(("- ", "* ", "• ")) for line in lines):
        return [(None, line[2:].strip()) for line in lines], ""
    return [(None, line) for line in lines], ""


def _check_no_heading(lines: Sequence[str], where: str) -> None:
    """Raise UserError if the first line is the heading of a table."""
    words = _SEPARATORS.split(lines[0].lower().replace('"', ""))
    is_heading = set(words) <= _HEADINGS | _NAME_HEADINGS and not _NAME_HEADINGS.isdisjoint(words)
    if is_heading and len(lines) > 1:
        raise UserError(
            f"{where} has the heading {lines[0]!r} in line 1, which would be a class; remove it"
        )


def _check_names(texts: Sequence[str], where: str) -> None:
    """Raise UserError if a text is surely no class name, as in a web page or a list of records."""
    for place, text in enumerate(texts):
        if _NO_NAME.match(text):
            raise UserError(
                f"{where} has {text[:40]!r} in line {place + 1}, which is no class name; write one "
                "class name per line, in label order"
            )


def _unquote(text: str) -> str:
    """Return the text in quotation marks, with escaped marks as themselves."""
    try:
        return str(ast.literal_eval(text)).strip()
    except (ValueError, SyntaxError):
        return text[1:-1].strip()


def _take_numbers(texts: list[str], where: str) -> tuple[list[int] | None, list[str]]:
    """Return the numbers before or after the names, and the texts without them.

    Names that begin or end with a number stay whole: `3 wheeler`, `747`, `stage 1`, `stage 2`.

    Raises:
        UserError: most lines count up, and one has no number.
    """
    places = [_PLACE.fullmatch(text) for text in texts]
    if all(places):
        texts = [match.group(1).replace("/", " ") for match in places if match]
    first = [_NUMBER_FIRST.fullmatch(text) for text in texts]
    numbers = [int(match.group(1)) for match in first if match]
    names = [match.group(3) for match in first if match]
    if len(numbers) == len(texts) and _mostly_distinct(names):
        # Text after a sign such as a colon is no part of a number's name, and no name begins with
        # 0. Else only numbers that count up are labels.
        has_signs = all(match.group(2).strip() in _SIGNS for match in first if match)
        if _counts_up(numbers) or 0 in numbers or has_signs:
            return numbers, names
    elif len(texts) > 3 and len(texts) / 2 < len(numbers) < len(texts):
        _check_not_one_left_out(texts, first, where)
    last = [_NUMBER_LAST.fullmatch(text) for text in texts]
    if len(texts) >= _MIN_NUMBERED_LAST and all(last):
        numbers = [int(match.group(2)) for match in last if match]
        names = [match.group(1) for match in last if match]
        if _counts_up(numbers) and _mostly_distinct(names):
            return numbers, names
    return None, texts


def _check_not_one_left_out(
    texts: Sequence[str], matches: Sequence[re.Match[str] | None], where: str
) -> None:
    """Raise UserError if most lines have their own place as a number, and others no number."""
    offsets = []
    for line, match in enumerate(matches):
        if match:
            offsets.append(int(match.group(1)) - line)
    usual = max(set(offsets), key=offsets.count)
    if usual in (-1, 0, 1) and offsets.count(usual) > len(texts) / 2:
        line = next(line for line, match in enumerate(matches) if match is None)
        raise UserError(
            f"{where} has {texts[line]!r} in line {line + 1}, without a number as most lines have; "
            "number every line or none, and remove headings"
        )


def _counts_up(numbers: Sequence[int]) -> bool:
    """Return whether these are the numbers from 0 or from 1 on, in any order."""
    start = min(numbers)
    is_complete = sorted(numbers) == list(range(start, start + len(numbers)))
    return len(numbers) > 1 and start in (0, 1) and is_complete


def _mostly_distinct(names: Sequence[str]) -> bool:
    """Return whether names without their numbers still tell classes apart.

    `1 star`, `2 star` do not. ImageNet's first lemmas do, but two of a thousand occur twice.
    """
    return len(set(names)) >= 0.9 * len(names)


def _parse_line(text: str, where: str) -> Line:
    """Return the class in a line without its number."""
    if match := _ID_FIRST.fullmatch(text):
        name, *rest = [field.strip() for field in (match.group(2) or "").split("\t")]
        return Line(_unquoted(name), match.group(1), tuple(rest), None, where)
    if "\t" not in text and (match := _ID_LAST.fullmatch(text)):
        return Line(_unquoted(match.group(1)), match.group(2), (), None, where)
    name, *rest = [field.strip() for field in text.split("\t")]
    return Line(name, None, tuple(rest), None, where)


def _unquoted(name: str) -> str:
    """Return a name without quotation marks around it, as in tables with commas."""
    is_quoted = len(name) > 1 and name[0] == name[-1] and name[0] in "'\""
    return name[1:-1].strip() if is_quoted else name

"""Find the names of classes: from the source itself, from a file, or from WordNet ids."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from beamclip.config import DataConfig, UserError
from beamclip.data.folder_names import folder_numbers, names_in_folders
from beamclip.data.list_formats import ClassList, check_counts_up, parse_class_list

_NO_CLASS = {"background", "__background__", "dummy"}
"""First line of lists for labels from 1, of TensorFlow's models. In lower case."""
_IN_PATH = re.compile(r"(?:^|/)(n\d{8})(?=[/_.])")

Classes = tuple[tuple[str, ...], tuple[str | None, ...]]
"""Names and WordNet ids, both in label order."""


@dataclass(frozen=True)
class NameList:
    """A list of class names next to the images.

    Attributes:
        names: class names in label order.
        where: the list's own name, for messages.
        keys: WordNet ids that the list has; empty if it has none.
        numbers: the labels that the lines have; None without.
    """

    names: Sequence[str]
    where: str
    keys: Sequence[str | None] = ()
    numbers: Sequence[int] | None = None


def wordnet_id(path: str) -> str | None:
    """Return the WordNet id in a path such as `n01440764/1.JPEG`, or None."""
    match = _IN_PATH.search(path)
    return match.group(1) if match else None


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read a file of class names, in label order.

    Mostly it has one name per line; `beamclip.data.list_formats` says what else is read. The text
    after a tab says which sense is meant; `beamclip.anchors` reads it.

    Raises:
        UserError: the file can't be read, is not UTF-8, or has an empty or repeated line.
    """
    return tuple(_read_name_list(path).names)


def _read_name_list(path: Path) -> NameList:
    """Read a file of class names with their ids and labels; see `read_class_names`."""
    return name_list_in(_read(path), f"data.class_names {path}")


def _read(path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise UserError(
            f"data.class_names {path} can't be read ({error.strerror}); give a text file"
        ) from None


def lines_say_their_class(path: Path) -> bool:
    """Return whether the lines of a file of class names have labels or WordNet ids in front.

    Such lines may be in another order than the labels.

    Raises:
        UserError: as `read_class_names`.
    """
    listed = _parse(_read(path), f"data.class_names {path}")
    return listed.numbers is not None or any(listed.keys)


def form_of_class_list(path: Path) -> str:
    """Return how a file of class names was read, in a few words, such as `numbered from 0`.

    Raises:
        UserError: as `read_class_names`.
    """
    return _parse(_read(path), f"data.class_names {path}").form


def name_list_in(content: bytes, where: str) -> NameList:
    """Return the class names in the bytes of a file; see `read_class_names`.

    Args:
        content: the file's bytes.
        where: the file's name, for messages.

    Raises:
        UserError: the bytes are not UTF-8, a line is empty or repeated, or an id is unknown.
    """
    listed = _parse(content, where)
    # Compare whole lines: two classes may share a name if the senses after the tab differ.
    lines = [" ".join(filter(None, (line.key, line.name, *line.rest))) for line in listed.lines]
    name, times = Counter(lines).most_common(1)[0]
    if times > 1:
        raise UserError(f"{where} has {name!r} {times} times; every class needs its own name")
    return NameList(names_in_list(listed), where, listed.keys, listed.numbers)


def _parse(content: bytes, where: str) -> ClassList:
    try:
        # Some editors begin a file with a byte order mark, which `utf-8-sig` removes.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(
            f"{where} is not UTF-8; save it as UTF-8 text, one class name per line"
        ) from None
    return parse_class_list(text, where)


def names_in_list(listed: ClassList) -> tuple[str, ...]:
    """Return the name of each class in a list; ids alone, and lemmas after an id, become words.

    Raises:
        UserError: an id has no words.
    """
    names = []
    for line in listed.lines:
        name = line.name
        if line.key:
            (name,) = in_words([line.name or line.key], [line.key])
            if name == line.key:
                raise UserError(
                    f"{line.where} has {line.key} without a name, and ImageNet-21K has no such id; "
                    "write the class's name after it"
                )
            # Lemmas of an id that ImageNet-21K doesn't have.
            name = name.split(",")[0].strip()
        names.append(name)
    # ImageNet has two cranes and two maillots, which CLIP's names tell apart.
    times = Counter(names)
    for place, line in enumerate(listed.lines):
        if line.key and times[names[place]] > 1:
            names[place] = _clip_names().get(line.key, names[place])
    return tuple(names)


def resolve_classes(
    config: DataConfig,
    source_names: Sequence[str] | None,
    count: int,
    exact: bool = False,
    name_list: NameList | None = None,
) -> Classes:
    """Return names and WordNet ids of the classes, in label order.

    The names in `data.class_names` are used first, then `name_list`, then `source_names`.

    Args:
        config: the data settings.
        source_names: the names that the source itself has; None if it has none. WordNet ids among
            them become keys, and are replaced by words; see `beamclip.data.folder_names` for what
            else is read out of them.
        count: number of labels.
        exact: a list of names must have exactly `count` lines, because labels come from the order
            of folders.
        name_list: a list next to the images.

    Raises:
        UserError: there are no names, or too few, or a list has the source's names in another
            order.
    """
    # Choose the list: the user's own, or the one next to the images.
    listed = name_list
    if config.class_names:
        listed = _read_name_list(Path(config.class_names))
    if listed is None and source_names is None:
        raise UserError(
            f"{config.path} has no class names; give a text file, one name per line, as "
            "data.class_names"
        )
    own_names, own_keys = names_in_folders(source_names or ())
    if listed is None:
        _check_number(len(own_names), count, False, f"{config.path}")
        return in_words(own_names, own_keys), own_keys

    listed = _in_label_order(listed, source_names or (), own_keys)
    names = tuple(listed.names)
    _check_number(len(names), count, exact, listed.where)
    check_first_name(names, count, listed.where)
    # Take WordNet ids from both, because either may hold ids in place of names. A list with more or
    # fewer names can't be matched with the source's classes.
    if len(own_keys) != len(names):
        own_keys = (None,) * len(names)
    elif source_names:
        _check_order(names, source_names, listed.where)
        _check_keys(listed, own_keys)
    pairs = zip(own_keys, listed.keys or (None,) * len(names), strict=True)
    keys = tuple(own_key or listed_key for own_key, listed_key in pairs)
    if keys == (None,) * len(names) and name_list is not None and len(name_list.keys) == len(names):
        keys = tuple(name_list.keys)
    # The user's own names stay as they are.
    return (names if config.class_names else in_words(names, keys)), keys


def check_first_name(names: Sequence[str], count: int, where: str) -> None:
    """Raise UserError if a list begins with a name for no class, and has one name too many.

    Args:
        names: class names in label order.
        count: number of labels.
        where: the list's own name, for messages.
    """
    if len(names) == count + 1 and names[0].lower() in _NO_CLASS:
        raise UserError(
            f"{where} has {names[0]!r} in line 1, but the labels are only from 0 to {count - 1}, "
            "so each class would get the name before its own; remove that line"
        )


def _check_number(names: int, count: int, exact: bool, where: str) -> None:
    """Raise UserError if there are too few names, or too many for `exact`."""
    if names < count or (exact and names != count):
        raise UserError(
            f"{where} has {names} class names for {count} labels; give one a label, in label order"
        )


def _in_label_order(
    listed: NameList, source_names: Sequence[str], own_keys: Sequence[str | None]
) -> NameList:
    """Return a list in the order of the source's classes.

    If both have WordNet ids or numbers, those decide, and lines of other classes are left out.
    Otherwise the list's order is kept.

    Raises:
        UserError: a class has no line, or the order of the lines can mean two things.
    """
    own_ids = [key for key in own_keys if key is not None]
    if own_ids and len(own_ids) == len(own_keys) and listed.keys and None not in listed.keys:
        lines = {key: line for line, key in enumerate(listed.keys)}
        missing = next((key for key in own_ids if key not in lines), None)
        if missing is not None:
            raise UserError(
                f"{listed.where} has WordNet ids, but not the class {missing} of the images; add "
                "its line, or give a list of names in label order"
            )
        return _picked(listed, [lines[key] for key in own_ids])
    own_numbers = folder_numbers(source_names)
    if own_numbers and listed.numbers and set(own_numbers) == set(listed.numbers):
        lines_by_number = {number: line for line, number in enumerate(listed.numbers)}
        return _picked(listed, [lines_by_number[number] for number in own_numbers])
    if listed.numbers:
        check_counts_up(listed.numbers, listed.where)
    if own_numbers and len(own_numbers) == len(listed.names):
        _check_one_meaning(listed, source_names, own_numbers)
    return listed


def _picked(listed: NameList, lines: Sequence[int]) -> NameList:
    """Return the list with these lines only, in this order."""
    names = [listed.names[line] for line in lines]
    keys = [listed.keys[line] for line in lines] if listed.keys else ()
    return NameList(names, listed.where, keys)


def _check_one_meaning(
    listed: NameList, source_names: Sequence[str], numbers: Sequence[int]
) -> None:
    """Raise UserError if classes are named by numbers, and the list may be in their order.

    Labels follow the sorted names, in which 10 comes before 2. Most people write a list in the
    order of the numbers. If the names have words too, those may show that it isn't.
    """
    if list(numbers) == sorted(numbers):
        return
    labels_by_name = _labels_by_name(source_names)
    agreeing = [
        line
        for line, name in enumerate(listed.names)
        if line in labels_by_name.get(normalize_name(name), set())
    ]
    # The first and last classes mostly have the same place in both orders.
    if 2 * len(agreeing) > len(numbers):
        return
    order = sorted(numbers)
    first_moved = next(place for place, number in enumerate(numbers) if number != order[place])
    raise UserError(
        f"{listed.where} can mean two things: line {first_moved + 1} names the class "
        f"{source_names[first_moved]} if classes are sorted as text, but {order[first_moved]} if "
        "they are sorted as numbers; begin each line with its class's number, such as "
        f"'{order[first_moved]}: {listed.names[first_moved]}'"
    )


def _check_keys(listed: NameList, own_keys: Sequence[str | None]) -> None:
    """Raise UserError if a line has the WordNet id of another class than the source."""
    for line, (key, own_key) in enumerate(zip(listed.keys, own_keys, strict=False)):
        if key and (own_key or key in own_keys) and key != own_key:
            raise UserError(
                f"{listed.where} has {key} in line {line + 1}, where the images' classes have "
                f"{own_key or 'another class'}; write the lines in label order"
            )


def _check_order(listed: Sequence[str], source_names: Sequence[str], where: str) -> None:
    """Raise UserError if a list has the source's classes in another order.

    Labels follow the source's own classes, so each class would silently get another one's name.

    A single line with another class's name proves nothing: some lists call the bird `crane`, others
    the machine. The order counts as wrong if the other class's own line is misplaced too, or if
    there are fewer than ten correct lines for each misplaced one.
    """
    labels_by_name = _labels_by_name(source_names)
    times = Counter(map(normalize_name, listed))
    misplaced: dict[int, int] = {}
    correct = 0
    for line, name in enumerate(listed):
        spelling = normalize_name(name)
        labels = labels_by_name.get(spelling, set())
        # A name that is listed twice says nothing about the order: senses tell the classes apart.
        if times[spelling] > 1:
            continue
        if line in labels:
            correct += 1
        elif len(labels) == 1:
            misplaced[line] = min(labels)
    for line, label in misplaced.items():
        if label in misplaced or 10 * len(misplaced) > correct:
            order = f"write the lines in the order of the classes ({', '.join(source_names[:3])}…)"
            raise UserError(
                f"{where} has {listed[line]!r} in line {line + 1}, but its class is number "
                f"{label + 1}; {order}"
            )


def _labels_by_name(source_names: Sequence[str]) -> dict[str, set[int]]:
    """Return the labels of the classes that go by each normalized name.

    A class goes by the source's name, by each lemma in it (`tench, Tinca tinca`), and by CLIP's
    name for its WordNet id.
    """
    own_names, own_keys = names_in_folders(source_names)
    # `n01440764` in place of `tench` here: an id alone has CLIP's name, an id and words their own.
    ids_and_lemmas = [key or name for name, key in zip(source_names, own_keys, strict=True)]
    clip_names = in_words(ids_and_lemmas, own_keys)
    labels: dict[str, set[int]] = {}
    for names in (source_names, own_names, clip_names):
        for label, name in enumerate(names):
            for spelling in (name, *name.split(",")):
                labels.setdefault(normalize_name(spelling), set()).add(label)
    return labels


def composed(name: str) -> str:
    """Return a name with each accented letter as one character, as most systems write it (NFC)."""
    return unicodedata.normalize("NFC", name)


def check_spelled_once(folders: Sequence[str], where: str) -> None:
    """Raise UserError if two class folders have names that look the same.

    Args:
        folders: names of the folders.
        where: what holds them, for messages.
    """
    name, times = Counter(map(composed, folders)).most_common(1)[0]
    if times > 1:
        raise UserError(
            f"{where} has the class folder {name} {times} times, with its accents stored in "
            "different ways (Unicode NFC and NFD); move the images into one of them"
        )


def normalize_name(name: str) -> str:
    """Return a spelling in which `Aquarium_fish` and `aquarium fish` are the same.

    So are letters with accents however they are stored: a Mac writes an e and an accent for é.
    """
    return " ".join(composed(name).replace("_", " ").replace("-", " ").casefold().split())


def in_words(names: Sequence[str], keys: Sequence[str | None]) -> tuple[str, ...]:
    """Return class names in which WordNet ids and lists of lemmas are replaced by CLIP's words.

    Classes outside ImageNet-1K get the first lemma of their WordNet id.

    Args:
        names: names of the classes, such as `n01440764` or `tench, Tinca tinca`.
        keys: WordNet id of each class, if known.
    """
    words = []
    for name, key in zip(names, keys, strict=True):
        is_id_or_lemmas = name == key or "," in name
        if key and is_id_or_lemmas:
            words.append(_clip_names().get(key) or _first_lemmas().get(key) or name)
        else:
            words.append(name)
    return tuple(words)


@cache
def _clip_names() -> dict[str, str]:
    """Return the names that CLIP's authors gave to ImageNet-1K's WordNet ids.

    With WordNet's first lemmas, `crane` and `maillot` would be two classes each.
    """
    # Imported here because both import torch, which the driver and packing actors do without.
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    return dict(zip(ImageNetInfo("imagenet-1k").label_names(), IMAGENET_CLASSNAMES, strict=True))


@cache
def _first_lemmas() -> dict[str, str]:
    """Return the first lemma of each WordNet id of ImageNet-21K."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-22k")
    return {id: info.label_name_to_description(id).split(", ")[0] for id in info.label_names()}

"""Find the names of classes: from the source itself, from a file, or from WordNet ids."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from beamclip.config import DataConfig, UserError

_WORDNET_ID = re.compile(r"n\d{8}")
_IN_PATH = re.compile(r"(?:^|/)(n\d{8})(?=[/_.])")

Classes = tuple[tuple[str, ...], tuple[str | None, ...]]
"""Names and WordNet ids, both in label order."""


@dataclass(frozen=True)
class NameList:
    """A list of class names next to the images.

    Attributes:
        names: class names in label order.
        where: the list's own name, for messages.
    """

    names: Sequence[str]
    where: str


def wordnet_id(path: str) -> str | None:
    """Return the WordNet id in a path such as `n01440764/1.JPEG`, or None."""
    match = _IN_PATH.search(path)
    return match.group(1) if match else None


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read a file with one class name per line, in label order.

    The text after a tab says which sense is meant; `beamclip.anchors` reads it.

    Raises:
        UserError: the file can't be read, is not UTF-8, or has an empty or repeated line.
    """
    try:
        content = path.expanduser().read_bytes()
    except OSError as error:
        raise UserError(
            f"data.class_names {path} can't be read ({error.strerror}); give a text file"
        ) from None
    return class_names_in(content, f"data.class_names {path}")


def class_names_in(content: bytes, where: str) -> tuple[str, ...]:
    """Return the class names in the bytes of a file; see `read_class_names`.

    Args:
        content: the file's bytes.
        where: the file's name, for messages.

    Raises:
        UserError: the bytes are not UTF-8, or a line is empty or repeated.
    """
    try:
        # Some editors begin a file with a byte order mark, which `utf-8-sig` removes.
        lines = [line.strip() for line in content.decode("utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError:
        raise UserError(
            f"{where} is not UTF-8; save it as UTF-8 text, one class name per line"
        ) from None
    if not lines or "" in lines:
        line = lines.index("") + 1 if lines else 1
        raise UserError(
            f"{where} is empty in line {line}; write one class name per line, in label order"
        )
    # Compare whole lines: two classes may share a name if the senses after the tab differ.
    name, times = Counter(lines).most_common(1)[0]
    if times > 1:
        raise UserError(f"{where} has {name!r} {times} times; every class needs its own name")
    return tuple(line.split("\t")[0].rstrip() for line in lines)


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
            them become keys, and are replaced by words.
        count: number of labels.
        exact: a list of names must have exactly `count` lines, because labels come from the order
            of folders.
        name_list: a list next to the images.

    Raises:
        UserError: there are no names, or too few, or a list has the source's names in another
            order.
    """
    # Choose the list: the user's own, or the one next to the images.
    listed: Sequence[str] | None = None
    where = f"{config.path}"
    if config.class_names:
        listed = read_class_names(Path(config.class_names))
        where = f"data.class_names {config.class_names}"
    elif name_list is not None:
        listed = name_list.names
        where = name_list.where
    if listed is None and source_names is None:
        raise UserError(
            f"{config.path} has no class names; give a text file, one name per line, as "
            "data.class_names"
        )
    # Check number and order of the names.
    names = tuple(listed or source_names or ())
    if len(names) < count or (listed and exact and len(names) != count):
        raise UserError(
            f"{where} has {len(names)} class names for {count} labels; give one a label, in label "
            "order"
        )
    if listed and source_names and len(source_names) == len(names):
        _check_order(names, source_names, where)

    # Take WordNet ids from both, because either may hold ids in place of names.
    source_keys = _keys(source_names, len(names))
    listed_keys = _keys(None if name_list is None else name_list.names, len(names))
    pairs = zip(source_keys, listed_keys, strict=True)
    keys = tuple(source_key or listed_key for source_key, listed_key in pairs)
    # The user's own names stay as they are, WordNet ids included.
    return (names if config.class_names else in_words(names, keys)), keys


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
    clip_names = in_words(source_names, _keys(source_names, len(source_names)))
    labels: dict[str, set[int]] = {}
    for names in (source_names, clip_names):
        for label, name in enumerate(names):
            for spelling in (name, *name.split(",")):
                labels.setdefault(normalize_name(spelling), set()).add(label)
    return labels


def normalize_name(name: str) -> str:
    """Return a spelling in which `Aquarium_fish` and `aquarium fish` are the same."""
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _keys(names: Sequence[str] | None, count: int) -> tuple[str | None, ...]:
    """Return the WordNet id of each of `count` classes: its name if that is one, otherwise None."""
    # A list with more or fewer names can't be matched with the classes.
    if names is None or len(names) != count:
        return (None,) * count
    return tuple(name if _WORDNET_ID.fullmatch(name) else None for name in names)


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

"""Class names: from the source itself, from a file, or from WordNet ids."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from beamclip.config import DataConfig, UserError

_WORDNET_ID = re.compile(r"n\d{8}")
_IN_PATH = re.compile(r"(?:^|/)(n\d{8})(?=[/_.])")

Classes = tuple[tuple[str, ...], tuple[str | None, ...]]
"""Names and WordNet ids, both in label order."""


def wordnet_id(path: str) -> str | None:
    """The WordNet id in a path such as `n01440764/1.JPEG` or `n01440764_1.JPEG`, or None."""
    found = _IN_PATH.search(path)
    return found.group(1) if found else None


def read_class_names(path: Path) -> tuple[str, ...]:
    """One class name a line, in label order. What stands behind a tab says which sense is meant, and is read where anchors are made.

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
    """The same for a file's bytes.

    Args:
        where: what a sentence calls the file.
    """
    try:
        lines = [line.strip() for line in content.decode("utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError:
        raise UserError(
            f"{where} is not UTF-8; save it as UTF-8 text, one class name a line"
        ) from None
    if not lines or "" in lines:
        line = lines.index("") + 1 if lines else 1
        raise UserError(
            f"{where} is empty in line {line}; write one class name a line, in label order"
        )
    name, times = Counter(lines).most_common(1)[0]
    if times > 1:
        raise UserError(f"{where} has {name!r} {times} times; every class needs a name of its own")
    return tuple(line.split("\t")[0].rstrip() for line in lines)


def resolve_classes(
    config: DataConfig,
    own: Sequence[str] | None,
    count: int,
    exact: bool = False,
    beside: tuple[Sequence[str], str] | None = None,
) -> Classes:
    """Names and WordNet ids of the classes.

    Args:
        own: the source's own names, None where it has none. WordNet ids among them become keys and are put into words.
        count: how many labels there are.
        exact: a list of names must have exactly `count` lines, where labels are made from the order of folders.
        beside: names from a list that lies with the images, and what a sentence calls it. It counts where no other is given.

    Raises:
        UserError: there are no names, or too few, or a list has the source's own names in another order.
    """
    given, where = (
        read_class_names(Path(config.class_names)) if config.class_names else None,
        f"data.class_names {config.class_names}",
    )
    listed, where = (given, where) if given else beside or (None, f"{config.path}")
    if listed is None and own is None:
        raise UserError(
            f"{config.path} has no class names; give a text file, one name a line, as data.class_names"
        )
    names = tuple(listed or own or ())
    if len(names) < count or (listed and exact and len(names) != count):
        raise UserError(
            f"{where} has {len(names)} class names for {count} labels; give one a label, in label order"
        )
    if listed and own and len(own) == len(names):
        _check_order(names, own, where)
    keys = tuple(
        key or id
        for key, id in zip(
            _keys(own, len(names)), _keys(beside and beside[0], len(names)), strict=True
        )
    )
    return (names if given else in_words(names, keys)), keys


def _check_order(listed: Sequence[str], own: Sequence[str], where: str) -> None:
    """Labels follow the source's own classes: a list in another order would silently give each class another's name.

    One line in a thousand that has another class's name is no proof: some lists call the bird `crane`, others the machine. It is
    where that class's line has another's name in turn, or where there are fewer than ten lines in place for each that is not.
    """
    owners, times = (
        _owners(own),
        Counter(map(normalize_name, listed)),
    )  # which of two equal lines is meant is said where senses tell them apart
    found = {
        line: owners[normalize_name(name)]
        for line, name in enumerate(listed)
        if times[normalize_name(name)] == 1 and normalize_name(name) in owners
    }
    stray = {
        line: min(places)
        for line, places in found.items()
        if line not in places and len(places) == 1
    }
    kept = sum(line in places for line, places in found.items())
    wrong = next((line for line in stray if stray[line] in stray or 10 * len(stray) > kept), None)
    if wrong is not None:
        order = f"write the lines in the order of the classes ({', '.join(own[:3])}…)"
        raise UserError(
            f"{where} has {listed[wrong]!r} in line {wrong + 1}, but its class is number {stray[wrong] + 1}; {order}"
        )


def _owners(own: Sequence[str]) -> dict[str, set[int]]:
    """Which classes go by a name: their own, its lemmas (`tench, Tinca tinca`), and what CLIP calls them."""
    owners = dict[str, set[int]]()
    for names in (own, in_words(own, _keys(own, len(own)))):
        for place, name in enumerate(names):
            for part in (name, *name.split(",")):
                owners.setdefault(normalize_name(part), set()).add(place)
    return owners


def normalize_name(name: str) -> str:
    """A spelling in which `Aquarium_fish` and `aquarium fish` are the same."""
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _keys(own: Sequence[str] | None, count: int) -> tuple[str | None, ...]:
    if own is None or len(own) != count:
        return (None,) * count
    return tuple(name if _WORDNET_ID.fullmatch(name) else None for name in own)


def in_words(names: Sequence[str], keys: Sequence[str | None]) -> tuple[str, ...]:
    """The names of classes, those that are WordNet ids or lists of lemmas (`tench, Tinca tinca`) in the words that CLIP knows.

    Args:
        keys: WordNet id of each class, where it is known.
    """
    return tuple(
        _words_of(key, name) if key and (name == key or "," in name) else name
        for name, key in zip(names, keys, strict=True)
    )


def _words_of(key: str, name: str) -> str:
    return _clip_s_words().get(key) or _first_lemmas().get(key) or name


@cache
def _clip_s_words() -> dict[str, str]:
    """ImageNet-1K's WordNet ids in words.

    The names that CLIP's authors gave: with WordNet's first lemmas, `crane` and `maillot` would be two classes each.
    """
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    return dict(zip(ImageNetInfo("imagenet-1k").label_names(), IMAGENET_CLASSNAMES, strict=True))


@cache
def _first_lemmas() -> dict[str, str]:
    """ImageNet-21K's WordNet ids, each in the first of its lemmas."""
    from timm.data import ImageNetInfo

    known = ImageNetInfo("imagenet-22k")
    return {id: known.label_name_to_description(id).split(", ")[0] for id in known.label_names()}

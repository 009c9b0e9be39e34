"""Find the names of classes: from the source itself, from a file, or from WordNet ids."""

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
    """Return the WordNet id in a path such as `n01440764/1.JPEG`, or None."""
    match = _IN_PATH.search(path)
    return match.group(1) if match else None


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read a file with one class name a line, in label order.

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
    name_list: tuple[Sequence[str], str] | None = None,
) -> Classes:
    """Return names and WordNet ids of the classes, in label order.

    Args:
        config: `data.class_names` is used first.
        own: the source's own names, None if it has none. WordNet ids among them become keys, and
            are replaced by words.
        count: number of labels.
        exact: a list of names must have exactly `count` lines, because labels come from the order
            of folders.
        name_list: names from a list next to the images, and the list's name for messages. Used if
            `data.class_names` is not given.

    Raises:
        UserError: there are no names, or too few, or a list has the source's own names in another
            order.
    """
    given = read_class_names(Path(config.class_names)) if config.class_names else None
    listed: Sequence[str] | None
    if given:
        listed = given
        where = f"data.class_names {config.class_names}"
    else:
        listed, where = name_list or (None, f"{config.path}")
    if listed is None and own is None:
        raise UserError(
            f"{config.path} has no class names; give a text file, one name a line, as "
            "data.class_names"
        )
    names = tuple(listed or own or ())
    if len(names) < count or (listed and exact and len(names) != count):
        raise UserError(
            f"{where} has {len(names)} class names for {count} labels; give one a label, in label "
            "order"
        )
    if listed and own and len(own) == len(names):
        _check_order(names, own, where)
    own_keys = _keys(own, len(names))
    listed_keys = _keys(name_list and name_list[0], len(names))
    pairs = zip(own_keys, listed_keys, strict=True)
    keys = tuple(own_key or listed_key for own_key, listed_key in pairs)
    return (names if given else in_words(names, keys)), keys


def _check_order(listed: Sequence[str], own: Sequence[str], where: str) -> None:
    """Raise UserError if a list has the source's classes in another order.

    Labels follow the source's own classes, so each class would silently get another one's name.

    A single line with another class's name is no proof: some lists call the bird `crane`, others
    the machine. It is one if that class's line has another class's name in turn, or if fewer than
    ten lines are in place for each that is not.
    """
    owners = _owners(own)
    # Lines that occur twice are skipped: senses tell them apart.
    times = Counter(map(normalize_name, listed))
    classes_of_line = {}
    for line, name in enumerate(listed):
        spelling = normalize_name(name)
        if times[spelling] == 1 and spelling in owners:
            classes_of_line[line] = owners[spelling]
    stray = {}
    in_place = 0
    for line, classes in classes_of_line.items():
        if line in classes:
            in_place += 1
        elif len(classes) == 1:
            stray[line] = min(classes)
    for line, label in stray.items():
        if label in stray or 10 * len(stray) > in_place:
            order = f"write the lines in the order of the classes ({', '.join(own[:3])}…)"
            raise UserError(
                f"{where} has {listed[line]!r} in line {line + 1}, but its class is number "
                f"{label + 1}; {order}"
            )


def _owners(own: Sequence[str]) -> dict[str, set[int]]:
    """Return the labels of the classes that have a name, by normalized name.

    Names of a class are its own, its lemmas (`tench, Tinca tinca`), and CLIP's.
    """
    owners: dict[str, set[int]] = {}
    for names in (own, in_words(own, _keys(own, len(own)))):
        for label, name in enumerate(names):
            for part in (name, *name.split(",")):
                owners.setdefault(normalize_name(part), set()).add(label)
    return owners


def normalize_name(name: str) -> str:
    """Return a spelling in which `Aquarium_fish` and `aquarium fish` are the same."""
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _keys(own: Sequence[str] | None, count: int) -> tuple[str | None, ...]:
    if own is None or len(own) != count:
        return (None,) * count
    return tuple(name if _WORDNET_ID.fullmatch(name) else None for name in own)


def in_words(names: Sequence[str], keys: Sequence[str | None]) -> tuple[str, ...]:
    """Return class names in which WordNet ids and lists of lemmas are replaced by CLIP's words.

    Args:
        names: of the classes, such as `n01440764` or `tench, Tinca tinca`.
        keys: WordNet id of each class, if known.
    """
    words = []
    for name, key in zip(names, keys, strict=True):
        is_id_or_lemmas = name == key or "," in name
        words.append(_words_of(key, name) if key and is_id_or_lemmas else name)
    return tuple(words)


def _words_of(key: str, name: str) -> str:
    return _clip_names().get(key) or _first_lemmas().get(key) or name


@cache
def _clip_names() -> dict[str, str]:
    """Return the names that CLIP's authors gave to ImageNet-1K's WordNet ids.

    With WordNet's first lemmas, `crane` and `maillot` would be two classes each.
    """
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    return dict(zip(ImageNetInfo("imagenet-1k").label_names(), IMAGENET_CLASSNAMES, strict=True))


@cache
def _first_lemmas() -> dict[str, str]:
    """Return the first lemma of each WordNet id of ImageNet-21K."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-22k")
    return {id: info.label_name_to_description(id).split(", ")[0] for id in info.label_names()}

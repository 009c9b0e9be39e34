"""Vocabularies: sets of classes that anchors can be made of, whatever the data."""

import os
from collections.abc import Callable
from pathlib import Path

from beamclip.anchors.wordnet import imagenet_tables as tables
from beamclip.anchors.wordnet.class_lists import ClassName, read_class_list, table_rows
from beamclip.config import UserError, nearest

KEY = "anchors.vocabulary"


def open_vocabulary(name: str) -> tuple[ClassName, ...]:
    """The classes of one of `VOCABULARIES`, or of a class list (see `read_class_list`) at the path `name`.

    Raises:
        UserError: there is no such vocabulary and no such file, or the file is not a class list.
    """
    if name in _READERS:
        return _READERS[name]()
    path = Path(name).expanduser()
    if not os.path.exists(
        path
    ):  # which, unlike a Path, takes a name that no system could hold for one that is not there
        raise UserError(
            f"{KEY} {name} is neither a file nor a vocabulary{nearest(name, VOCABULARIES)}"
        )
    return read_class_list(path, KEY)


def imagenet_1k() -> tuple[ClassName, ...]:
    """ImageNet-1K in label order, [1000], under the names that CLIP's authors gave: with WordNet's first lemmas, two would be `crane`."""
    from open_clip import IMAGENET_CLASSNAMES  # brings torch with it

    return tuple(map(ClassName, IMAGENET_CLASSNAMES, tables.imagenet_1k()))


def imagenet_21k() -> tuple[ClassName, ...]:
    """ImageNet-21K in label order, [21841], under WordNet's first lemmas."""
    words = tables.lemmas()
    return tuple(ClassName(words[id][0], id) for id in tables.imagenet_21k())


def lvis() -> tuple[ClassName, ...]:
    """The categories of LVIS v1 in the order of their ids, [1203], under its own names: `bow (weapon)`. `stop sign` is not in WordNet."""
    return tuple(ClassName(name, id or None) for name, id in table_rows("lvis.tsv"))


_READERS: dict[str, Callable[[], tuple[ClassName, ...]]] = {
    "imagenet-1k": imagenet_1k,
    "imagenet-21k": imagenet_21k,
    "lvis": lvis,
}
VOCABULARIES: tuple[str, ...] = tuple(_READERS)

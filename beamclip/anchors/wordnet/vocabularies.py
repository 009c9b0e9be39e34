"""Vocabularies: sets of classes that anchors can be made of, independent of the data's classes."""

import os
from collections.abc import Callable
from pathlib import Path

from beamclip.anchors.wordnet import imagenet_tables as tables
from beamclip.anchors.wordnet.class_lists import ClassName, read_class_list, read_table
from beamclip.config import UserError, nearest

KEY = "anchors.vocabulary"
"""The setting that names the vocabulary, for messages."""


def open_vocabulary(name: str) -> tuple[ClassName, ...]:
    """Return the classes of a vocabulary.

    Args:
        name: one of `VOCABULARIES`, or the path of a class list (see `read_class_list`).

    Raises:
        UserError: there is no such vocabulary and no such file, or the file is not a class list.
    """
    if name in _READERS:
        return _READERS[name]()
    path = Path(name).expanduser()
    # Unlike Path.exists, os.path.exists returns False for names that no file system can hold.
    if not os.path.exists(path):
        raise UserError(
            f"{KEY} {name} is neither a file nor a vocabulary{nearest(name, VOCABULARIES)}"
        )
    return read_class_list(path, KEY)


def imagenet_1k() -> tuple[ClassName, ...]:
    """Return ImageNet-1K in label order, [1000], under the names that CLIP's authors gave.

    With WordNet's first lemmas as names, two classes would be `crane`.
    """
    # Imported here because it imports torch, which the other vocabularies do without.
    from open_clip import IMAGENET_CLASSNAMES

    names_and_ids = zip(IMAGENET_CLASSNAMES, tables.imagenet_1k(), strict=True)
    return tuple(ClassName(name, id) for name, id in names_and_ids)


def imagenet_21k() -> tuple[ClassName, ...]:
    """Return ImageNet-21K in label order, [21841], under WordNet's first lemmas."""
    lemmas = tables.lemmas()
    return tuple(ClassName(lemmas[id][0], id) for id in tables.imagenet_21k())


def lvis() -> tuple[ClassName, ...]:
    """Return the categories of LVIS v1 in the order of their ids, [1203].

    Names are LVIS's own, such as `bow (weapon)`. `stop sign` is not in WordNet and has no id.
    """
    return tuple(ClassName(name, id or None) for name, id in read_table("lvis.tsv"))


_READERS: dict[str, Callable[[], tuple[ClassName, ...]]] = {
    "imagenet-1k": imagenet_1k,
    "imagenet-21k": imagenet_21k,
    "lvis": lvis,
}
VOCABULARIES: tuple[str, ...] = tuple(_READERS)

"""The labels of a tar shard's samples: `.cls`, or `.json` where there is none."""

import json
from collections.abc import Set
from pathlib import PurePosixPath
from typing import Any

from beamclip.config import UserError

SUFFIXES = {".cls", ".json"}


def key_of(name: str) -> str:
    """What the files of one sample share: the name up to the first dot, with its folder."""
    path = PurePosixPath(name)
    return str(path.parent / path.name.split(".", 1)[0])


class Labels:
    """Labels as they come in a shard. A `.json` may hold anything else where a `.cls` says the label."""

    def __init__(self) -> None:
        self._cls: dict[str, int] = {}
        self._json: dict[str, int] = {}
        self._lacking: dict[str, str] = {}  # where a .json without a label lies, by sample

    def add(self, key: str, suffix: str, content: Any, where: str) -> None:
        """Take what a member holds.

        Raises:
            UserError: a `.cls` holds no class index.
        """
        value = None if content is None else _index_in(content.read(), suffix)
        if value is not None:
            (self._cls if suffix == ".cls" else self._json)[key] = value
        elif suffix == ".cls":
            raise _no_index(where)
        else:
            self._lacking[key] = where

    def resolved(self, images: Set[str]) -> dict[str, int]:
        """The label of each sample; none where there is no `.cls` and no `.json` is an image's: these tell of the whole set.

        Args:
            images: the samples that have an image.

        Raises:
            UserError: a sample has a `.json` without a class index and no `.cls`.
        """
        labels = self._json | self._cls
        for key, where in self._lacking.items():
            if key in images and key not in labels:
                raise _no_index(where)
        return labels if self._cls or labels.keys() & images else {}


def _index_in(text: bytes, suffix: str) -> int | None:
    try:
        value = int(text) if suffix == ".cls" else json.loads(text)
    except (ValueError, RecursionError):  # the latter from lists in lists in lists
        return None
    if isinstance(value, dict):
        value = value.get("label", value.get("cls"))
    return value if type(value) is int and value >= 0 else None


def _no_index(where: str) -> UserError:
    return UserError(f"{where} holds no class index; write a whole number from 0 (in .json as label or cls)")

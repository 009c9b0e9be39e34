"""The kept list: a file that says which training images of which packed images a run may learn from.

JSON, so that any program can write one: `{"format": "beamclip kept list 1", "images": KEY, "ids": [0, 4, …]}` with the key of the packed
images and sample ids. The key is the name of their store's folder and, where images were left out because they can't be read, `-` and a
checksum of which: ids are places among the others. Lists that a balance wrote also say which part of the images it weighed: `split_seed`,
`val_fraction` and `train_images` as in `data`, and `weighed`, how many these were. Whatever else is in it is for people.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beamclip.balance.neighbors import Rows
from beamclip.config import DataConfig, UserError, validate
from beamclip.data import PackedImages

FORMAT = "beamclip kept list 1"
_SPLIT = ("split_seed", "val_fraction", "train_images")


@dataclass(frozen=True)
class Kept:
    """A list that was read.

    Attributes:
        ids: sorted, each once.
        split: what train was when it was balanced, as settings of `data`; None where the list does not say.
        weighed: how many images of it were balanced; None where the list does not say.
    """

    ids: Rows
    split: Mapping[str, Any] | None = None
    weighed: int | None = None


def split_facts(data: DataConfig, weighed: int) -> dict[str, Any]:
    """What a list says of the images it was made from."""
    return data.model_dump(mode="json", include=set(_SPLIT)) | {"weighed": weighed}


def write_kept(path: Path, images: str, ids: Rows, facts: Mapping[str, Any]) -> None:
    """Write a list.

    Args:
        images: key of the packed images.
        facts: `split_facts`, and more that people may want to know; JSON values.
    """
    path.write_text(json.dumps({"format": FORMAT, "images": images, **facts, "ids": ids.tolist()}))


def read_kept(path: Path, packed: PackedImages) -> Kept:
    """What a list says.

    Raises:
        UserError: the file can't be read, is no kept list, belongs to other images, or holds no or wrong ids.
    """
    content = _content(path)
    if content.get("images") != packed.key:
        raise UserError(_other_images(path, content.get("images"), packed.key))
    return Kept(_ids(path, content.get("ids"), packed), *_weighed(content))


def _other_images(path: Path, listed: Any, key: str) -> str:
    mend = "use the list with the data, data.image_size and data.encoding it was made from, or make one with beamclip balance"
    if listed == key.partition("-")[0]:
        mend = "of these, images that can't be read were left out; number its ids without them (see bad.csv) and give the whole key"
    return f"data.keep {path} lists images of {listed}, but the packed images of this run are {key}; {mend}"


def _ids(path: Path, ids: Any, packed: PackedImages) -> Rows:
    if not isinstance(ids, list) or not all(type(number) is int for number in ids):
        raise UserError(
            f"data.keep {path} has no list of whole numbers as ids; make it again with beamclip balance"
        )
    if not ids:
        raise UserError(
            f"data.keep {path} lists no image, which leaves nothing to train on; drop it or make another list"
        )
    images = packed.rows["train"]
    wrong = [number for number in (min(ids), max(ids)) if not 0 <= number < images]
    if wrong:
        raise UserError(
            f"data.keep {path} lists image {wrong[0]}, but training images are 0 to {images - 1}; make it again"
        )
    return np.unique(np.array(ids, np.int64))


def _weighed(content: Mapping[str, Any]) -> tuple[dict[str, Any] | None, int | None]:
    """Of a list that says nothing of it, or nothing that makes sense, as others than we may have written it: nothing."""
    weighed = content.get("weighed")
    try:
        validate(DataConfig, split := {name: content[name] for name in _SPLIT})
    except (KeyError, UserError):
        return None, None
    return (split, weighed) if type(weighed) is int else (None, None)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"data.keep {path} can't be read ({error.strerror}); give a list that beamclip balance wrote"
        ) from None
    except (ValueError, OverflowError, RecursionError):
        raise UserError(
            f"data.keep {path} is no JSON; give a list that beamclip balance wrote (kept.json)"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"data.keep {path} is no {FORMAT!r}; give a list that beamclip balance wrote (kept.json)"
        )
    return content

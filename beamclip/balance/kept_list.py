"""Read and write kept lists: files that name the images a student may be trained on.

A kept list is JSON, so that any program can write one:

    {"format": "beamclip kept list 1", "images": KEY, "ids": [0, 4, …]}

`ids` are sample ids and KEY is the key of the packed images, which is the name of their folder in
`stores/packed/`. Unreadable images are left out when images are packed, and ids count only the
others. If there were any, KEY ends with `-` and a checksum of which ones.

A list written by a balance also says which images were balanced: `split_seed`, `val_fraction` and
`train_images` are the `data` settings that selected them, and `weighed` is their number. All other
entries are for human readers only.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from beamclip.balance.neighbors import IntArray
from beamclip.config import DataConfig, UserError, validate
from beamclip.data import PackedImages

FORMAT = "beamclip kept list 1"


class SplitSettings(TypedDict):
    """The `data` settings that select the training images."""

    split_seed: int
    val_fraction: float
    train_images: int | None


@dataclass(frozen=True)
class KeptList:
    """The content of a kept list.

    Attributes:
        ids: sample ids, sorted and distinct, int64 [B].
        split: the split whose training images were balanced; None if the list doesn't say.
        weighed: number of images that were balanced; None if the list doesn't say.
    """

    ids: IntArray
    split: SplitSettings | None = None
    weighed: int | None = None


def describe_split(data: DataConfig, weighed: int) -> dict[str, Any]:
    """Return the entries of a kept list that say which images were balanced.

    Args:
        data: the settings that selected these images.
        weighed: number of these images.
    """
    settings = data.model_dump(mode="json", include=set(SplitSettings.__annotations__))
    return {**settings, "weighed": weighed}


def write_kept_list(path: Path, images: str, ids: IntArray, facts: Mapping[str, Any]) -> None:
    """Write a kept list.

    Args:
        path: path of the file.
        images: key of the packed images.
        ids: sample ids to keep.
        facts: further entries, JSON values: those of `describe_split`, and any for human readers.
    """
    content = {"format": FORMAT, "images": images, **facts, "ids": ids.tolist()}
    path.write_text(json.dumps(content), encoding="utf-8")


def read_kept_list(path: Path, packed: PackedImages) -> KeptList:
    """Read a kept list and check that it is about these packed images.

    Args:
        path: path of the file.
        packed: the packed images of the run.

    Raises:
        UserError: the file can't be read, is not a kept list, is about other images, or its ids are
            missing or invalid.
    """
    content = _read_json(path)
    listed_key = content.get("images")
    if listed_key != packed.key:
        raise UserError(_other_images_message(path, listed_key, packed.key))
    ids = _check_ids(path, content.get("ids"), packed.rows["train"])
    split, weighed = _read_split(content)
    return KeptList(ids, split, weighed)


def _read_json(path: Path) -> dict[str, Any]:
    """Read a kept list's JSON object.

    Raises:
        UserError: the file can't be read, is not JSON, or has another format.
    """
    try:
        # Not plain utf-8: editors on Windows put a byte-order mark first.
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"data.keep {path} can't be read ({error.strerror}); "
            "give a list that beamclip balance wrote"
        ) from None
    # A RecursionError comes from JSON that is nested too deeply.
    except (ValueError, OverflowError, RecursionError):
        raise UserError(
            f"data.keep {path} is not JSON; give a list that beamclip balance wrote (kept.json)"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"data.keep {path} is not a {FORMAT!r} file; "
            "give a list that beamclip balance wrote (kept.json)"
        )
    return content


def _other_images_message(path: Path, listed_key: Any, key: str) -> str:
    if listed_key == key.partition("-")[0]:
        # The list is about the same images but ignores that some of them can't be read.
        advice = (
            "images that can't be read were left out of these; "
            "number the ids without them (see bad.csv) and give the whole key"
        )
    else:
        advice = (
            "use the list with the data, data.image_size and data.encoding it was made from, "
            "or make one with beamclip balance"
        )
    return (
        f"data.keep {path} lists images of {listed_key}, "
        f"but the packed images of this run are {key}; {advice}"
    )


def _check_ids(path: Path, ids: Any, images: int) -> IntArray:
    """Check the ids of a kept list and return them sorted and distinct, int64.

    Args:
        path: path of the list, for messages.
        ids: the list's entry `ids`, which may be any JSON value.
        images: number of packed images in the train split.

    Raises:
        UserError: `ids` is not a list of whole numbers from 0 to images - 1, or it is empty.
    """
    # Not isinstance, because True and False are instances of int.
    if not isinstance(ids, list) or not all(type(number) is int for number in ids):
        raise UserError(
            f"data.keep {path} has no list of whole numbers as ids; "
            "make the list again with beamclip balance"
        )
    if not ids:
        raise UserError(
            f"data.keep {path} lists no images, so there is nothing to train on; "
            "remove data.keep or make another list"
        )
    for number in (min(ids), max(ids)):
        if not 0 <= number < images:
            raise UserError(
                f"data.keep {path} lists image {number}, but training images are "
                f"0 to {images - 1}; make the list again"
            )
    return np.unique(np.array(ids, np.int64))


def _read_split(content: Mapping[str, Any]) -> tuple[SplitSettings | None, int | None]:
    """Return the split and the number of images that were balanced, or (None, None).

    A list of another program may have no such entries, or invalid ones. It is used all the same.
    """
    weighed = content.get("weighed")
    if type(weighed) is not int:
        return None, None
    try:
        split: SplitSettings = {
            "split_seed": content["split_seed"],
            "val_fraction": content["val_fraction"],
            "train_images": content["train_images"],
        }
        validate(DataConfig, dict(split))
    except (KeyError, UserError):
        return None, None
    return split, weighed

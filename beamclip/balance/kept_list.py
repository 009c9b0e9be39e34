"""Read and write kept lists: files that name the training images a run may learn from.

A kept list is JSON, so that any program can write one:

    {"format": "beamclip kept list 1", "images": KEY, "ids": [0, 4, …]}

KEY is the key of the packed images and ids are sample ids. The key is the name of their store's
folder. If images were left out because they can't be read, `-` and a checksum of which ones follow,
since ids count the other images only.

Lists that a balance wrote also say which part of the images was balanced: `split_seed`,
`val_fraction` and `train_images` as in the `data` settings, and `weighed`, the number of these
images. All other keys are information for people.
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
    """The `data` settings that decide which images are train."""

    split_seed: int
    val_fraction: float
    train_images: int | None


@dataclass(frozen=True)
class KeptList:
    """The content of a kept list.

    Attributes:
        ids: sample ids, sorted and distinct.
        split: the split whose train images were balanced; None if the list does not say.
        weighed: number of images that were balanced; None if the list does not say.
    """

    ids: IntArray
    split: SplitSettings | None = None
    weighed: int | None = None


def describe_split(data: DataConfig, weighed: int) -> dict[str, Any]:
    """Return the entries of a list that say which images were balanced.

    Args:
        data: the settings that chose them.
        weighed: how many they are.
    """
    settings = data.model_dump(mode="json", include=set(SplitSettings.__annotations__))
    return {**settings, "weighed": weighed}


def write_kept_list(path: Path, images: str, ids: IntArray, facts: Mapping[str, Any]) -> None:
    """Write a kept list.

    Args:
        path: of the file.
        images: key of the packed images.
        ids: sample ids to keep.
        facts: `describe_split`, and information for people; JSON values.
    """
    content = {"format": FORMAT, "images": images, **facts, "ids": ids.tolist()}
    path.write_text(json.dumps(content))


def read_kept_list(path: Path, packed: PackedImages) -> KeptList:
    """Read a kept list of these packed images.

    Args:
        path: of the file.
        packed: the packed images of the run.

    Raises:
        UserError: the file can't be read, is not a kept list, belongs to other images, or has no
            ids or wrong ones.
    """
    content = _read_json(path)
    listed_key = content.get("images")
    if listed_key != packed.key:
        raise UserError(_other_images_message(path, listed_key, packed.key))
    ids = _check_ids(path, content.get("ids"), packed.rows["train"])
    split, weighed = _balanced_part(content)
    return KeptList(ids, split, weighed)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"data.keep {path} can't be read ({error.strerror}); "
            "give a list that beamclip balance wrote"
        ) from None
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
    """Return the ids, sorted and distinct.

    Args:
        path: of the list, for messages.
        ids: as the list has them.
        images: number of training images.

    Raises:
        UserError: they are not a list of whole numbers from 0 to images - 1, or there are none.
    """
    # A bool is an int too, so isinstance would accept true and false.
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


def _balanced_part(content: Mapping[str, Any]) -> tuple[SplitSettings | None, int | None]:
    """Return the split and the number of images that were balanced.

    Other programs may write lists too: without these entries, or with invalid ones, both are None.
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

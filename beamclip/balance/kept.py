"""The kept list: a file that says which training images of which packed images a run may learn from.

JSON, so that any program can write one: `{"format": "beamclip kept list 1", "images": KEY, "ids": [0, 4, …]}` with the key of the packed
images (the name of their store's folder) and sample ids. Whatever else is in it is for people.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beamclip.balance.search import Rows
from beamclip.config import UserError
from beamclip.data import PackedImages

FORMAT = "beamclip kept list 1"


def write_kept(path: Path, images: str, ids: Rows, facts: Mapping[str, Any]) -> None:
    """Write a list.

    Args:
        images: key of the packed images.
        facts: more that people may want to know; JSON values.
    """
    path.write_text(json.dumps({"format": FORMAT, "images": images, **facts, "ids": ids.tolist()}))


def read_kept(path: Path, packed: PackedImages) -> Rows:
    """The ids in a list, sorted, each once.

    Raises:
        UserError: the file can't be read, is no kept list, belongs to other images, or holds no or wrong ids.
    """
    content = _content(path)
    if content.get("images") != packed.key:
        raise UserError(
            f"data.keep {path} lists images of {content.get('images')}, but the packed images of this run are {packed.key}; "
            "use the list with the data, data.image_size and data.encoding it was made from, or make one with beamclip balance"
        )
    ids = content.get("ids")
    if not isinstance(ids, list) or not all(type(number) is int for number in ids):
        raise UserError(f"data.keep {path} has no list of whole numbers as ids; make it again with beamclip balance")
    if not ids:
        raise UserError(f"data.keep {path} lists no image, which leaves nothing to train on; drop it or make another list")
    images = packed.rows["train"]
    wrong = [number for number in (min(ids), max(ids)) if not 0 <= number < images]
    if wrong:
        raise UserError(f"data.keep {path} lists image {wrong[0]}, but training images are 0 to {images - 1}; make it again")
    return np.unique(np.array(ids, np.int64))


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"data.keep {path} can't be read ({error.strerror}); give a list that beamclip balance wrote") from None
    except (ValueError, OverflowError, RecursionError):
        raise UserError(f"data.keep {path} is no JSON; give a list that beamclip balance wrote (kept.json)") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"data.keep {path} is no {FORMAT!r}; give a list that beamclip balance wrote (kept.json)")
    return content

"""Decode every image once and keep it: the packed store."""

import csv
import itertools
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beamclip.config import DataConfig, UserError
from beamclip.data.decode import RESIZE_VERSION, square
from beamclip.data.item import SPLITS, Item, Source, Split
from beamclip.data.packed import PackedImages
from beamclip.data.rows import row_writer
from beamclip.data.sources import open_source
from beamclip.stores import Progress, build_once, discard_partial, silent

KIND = "packed"
Pixels = NDArray[np.uint8]
Bad = tuple[str, str]
"""Name of an image and why it can't be used."""
Decoded = tuple[Item, Pixels | str]
"""An item with its pixels, or with the reason why there are none."""
T = TypeVar("T")
R = TypeVar("R")


def pack(config: DataConfig, root: Path, progress: Progress = silent) -> PackedImages:
    """The packed store of a configuration's images, built first where it does not exist.

    Broken images are left out of rows, labels and groups alike and listed in the store's bad.csv. Splits and subsets
    are no part of the store: one serves them all (see `split`).

    Args:
        root: folder of all stores.

    Raises:
        UserError: as `open_source`; or a larger share of images than `data.broken_fraction` can't be read.
    """
    source = open_source(config)
    parts = parts_of(source, config)

    def build(folder: Path) -> dict[str, Any]:
        try:
            return _build(source, config, folder, progress)
        except Exception:
            discard_partial(root, KIND, parts)
            raise

    packed = PackedImages(build_once(root, KIND, parts, build))
    _check_bad(packed.bad, len(packed) + len(packed.bad), config)  # the limit may be lower than when it was built
    return packed


def parts_of(source: Source, config: DataConfig) -> dict[str, Any]:
    """All that a packed store depends on."""
    classes = {"names": list(source.names), "keys": list(source.keys)}
    return {"source": source.fingerprint, "image_size": config.image_size, "resize": RESIZE_VERSION, **classes}


def _build(source: Source, config: DataConfig, folder: Path, progress: Progress) -> dict[str, Any]:
    total = sum(source.count(split) for split in SPLITS)
    rows, bad = dict.fromkeys(SPLITS, 0), list[Bad]()
    labels, groups = list[int](), list[int]()
    with row_writer(folder / "images.npy", config.image_size) as write:
        for done, (split, group, (item, pixels)) in enumerate(_decoded(source, config.image_size), 1):
            if isinstance(pixels, str):
                bad.append((item.name, pixels))
            else:
                write(pixels)
                labels.append(item.label)
                groups.append(group)
                rows[split] += 1
            if done % 100 == 0 or done == total:
                progress("packing images", done, total)
    _check_bad(bad, total, config)
    np.save(folder / "labels.npy", np.array(labels, np.int64))
    if any(source.groups(split) is not None for split in SPLITS):
        np.save(folder / "groups.npy", np.array(groups, np.int64))
    _write_bad(folder / "bad.csv", bad)
    classes = {"names": list(source.names), "keys": list(source.keys)}
    return {"image_size": config.image_size, "rows": rows, "bad": len(bad), "classes": classes}


def _decoded(source: Source, side: int) -> Iterator[tuple[Split, int, Decoded]]:
    """Every item, in order, with its split and group (-1 where the source has none)."""

    def decode(item: Item) -> Decoded:
        try:
            return item, square(item.image, side)
        except Exception as error:  # decoders raise anything on damaged files: OSError, SyntaxError, struct.error…
            return item, " ".join(str(error).split()) or type(error).__name__

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we refuse these ourselves
        for split in SPLITS:
            groups = source.groups(split)
            numbers: Iterable[int] = itertools.repeat(-1) if groups is None else groups.tolist()
            decoded = in_order(pool, decode, source.items(split))
            yield from ((split, group, one) for one, group in zip(decoded, numbers, strict=groups is not None))


def in_order(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int = 256) -> Iterator[R]:
    """Like `pool.map`, but takes at most `ahead` items before their results are asked for: memory stays bounded."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _check_bad(bad: list[Bad], total: int, config: DataConfig) -> None:
    if len(bad) <= config.broken_fraction * total and len(bad) < total:
        return
    name, reason = bad[0] if bad else (f"{config.path}", "there are no images")
    raise UserError(
        f"{name} can't be read ({reason}), and so {len(bad)} of {total} images, more than data.broken_fraction "
        f"{config.broken_fraction} allows; mend or delete them, or raise data.broken_fraction"
    )


def _write_bad(path: Path, bad: list[Bad]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", "reason"), *bad])

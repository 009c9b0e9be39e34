"""Decode every image once and keep it: the packed store."""

import csv
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beamclip.config import DataConfig, UserError
from beamclip.data.decode import RESIZE_VERSION
from beamclip.data.item import SPLITS, Source, Split
from beamclip.data.packed import KIND, PackedImages
from beamclip.data.packing import Bad, PackJob, row_of
from beamclip.data.sources import open_source
from beamclip.stores import Progress, Runner, build_once, in_process, kept_shards, planned, run_shards, silent, store_path

_SHARD_BYTES = 64 * 2**20
_SAMPLE = 16
_SHARDS = 64  # at least so many where there is enough to share out, so that many processes can help and a bar moves


def pack(config: DataConfig, root: Path, progress: Progress = silent, run: Runner = in_process, repair: bool = False) -> PackedImages:
    """The packed store of a configuration's images, built first where it does not exist.

    Broken images are left out of rows, labels and groups alike and listed in the store's bad.csv. Splits and subsets
    are no part of the store: one serves them all (see `split`).

    Args:
        root: folder of all stores.
        run: who decodes: this process, or a cluster's.
        repair: decode again what is damaged in a store that exists.

    Raises:
        UserError: as `open_source` and `build_once`; or a larger share of images than `data.broken_fraction` can't be read.
    """
    return pack_source(open_source(config), config, root, progress, run, repair)


def pack_source(
    source: Source, config: DataConfig, root: Path, progress: Progress = silent, run: Runner = in_process, repair: bool = False
) -> PackedImages:
    """The same for a source that is already open."""

    def build(folder: Path) -> dict[str, Any]:
        return _Builder(source, config, folder).build(run, progress)

    packed = PackedImages(build_once(root, KIND, parts_of(source, config), build, progress, repair))
    _check_bad(packed.bad, len(packed) + len(packed.bad), config)  # the limit may be lower than when it was built
    return packed


def parts_of(source: Source, config: DataConfig) -> dict[str, Any]:
    """All that a packed store depends on. Not the classes' names, only their number: a better one must not cost another pass over the
    images.
    """
    quality = config.quality if config.encoding == "jpeg" else None
    pixels = {"image_size": config.image_size, "encoding": config.encoding, "quality": quality, "resize": RESIZE_VERSION}
    return {"source": source.fingerprint, **pixels, "classes": len(source.names)}


def images_left(source: Source, config: DataConfig, root: Path) -> int:
    """Images that are still to be packed: none where the store is there, which at most is repaired in the room it takes."""
    path = store_path(root, KIND, parts_of(source, config))
    if path.exists():
        return 0
    return sum(map(source.count, SPLITS)) - sum(len(record["labels"]) + len(record["bad"]) for record in kept_shards(path))


def cost_of_an_image(source: Source, config: DataConfig) -> tuple[float, float]:
    """Seconds to pack an image on one core, and its bytes in the store, measured on the first few of each split."""
    items = [item for split in SPLITS for item in source.items(split, 0, _SAMPLE)]
    sizes, start = list[int](), time.perf_counter()
    for item in items:
        row = row_of(item, config)
        sizes += [] if isinstance(row, str) else [len(row) if isinstance(row, bytes) else row.nbytes]
    return (time.perf_counter() - start) / max(1, len(items)), sum(sizes) / max(1, len(sizes))


@dataclass(frozen=True)
class _Builder:
    """One building of one packed store."""

    source: Source
    config: DataConfig
    folder: Path

    def build(self, run: Runner, progress: Progress) -> dict[str, Any]:
        total = sum(self.source.count(split) for split in SPLITS)
        rows = planned(self.folder, lambda: {"shard_images": shard_images(total, self.config.image_size)})["shard_images"]
        job = PackJob.over(self.source, self.config, rows)
        bad, records = list[Bad](), dict[int, dict[str, Any]]()
        for record in run_shards(job, self.folder, run, progress):
            records[record["index"]] = record
            bad += [(name, reason) for name, reason in record["bad"]]
            if len(bad) > self.config.broken_fraction * total:  # no need to see the rest
                _check_bad(bad, total, self.config)
        return self._finish([records[index] for index in sorted(records)], total)

    def _finish(self, records: list[dict[str, Any]], total: int) -> dict[str, Any]:
        bad = [(name, reason) for record in records for name, reason in record["bad"]]
        _check_bad(bad, total, self.config)
        np.save(self.folder / "labels.npy", _joined(record["labels"] for record in records))
        if any(self.source.groups(split) is not None for split in SPLITS):
            np.save(self.folder / "groups.npy", _joined(record["groups"] for record in records))
        with (self.folder / "bad.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("name", "reason"), *bad])
        rows: dict[Split, int] = {split: sum(len(r["labels"]) for r in records if r["split"] == split) for split in SPLITS}
        classes = {"names": list(self.source.names), "keys": list(self.source.keys)}
        encoding = {"image_size": self.config.image_size, "encoding": self.config.encoding}
        return {**encoding, "rows": rows, "shards": [len(r["labels"]) for r in records], "bad": len(bad), "classes": classes}


def shard_images(total: int, side: int) -> int:
    """Images in a shard: few enough for many hands, and no more than 64 MiB as raw pixels."""
    most = max(64, _SHARD_BYTES // (side * side * 3))
    return max(64, min(most, -(-total // _SHARDS)))


def _joined(parts: Iterable[list[int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.concatenate([np.empty(0, np.int64), *(np.array(part, np.int64) for part in parts)])


def _check_bad(bad: list[Bad], total: int, config: DataConfig) -> None:
    if len(bad) <= config.broken_fraction * total and len(bad) < total:
        return
    name, reason = bad[0] if bad else (f"{config.path}", "there are no images")
    raise UserError(
        f"{name} can't be read ({reason}), and so {len(bad)} of {total} images, more than data.broken_fraction "
        f"{config.broken_fraction} allows; mend or delete them, or raise data.broken_fraction"
    )

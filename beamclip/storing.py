"""`beamclip pack`, `beamclip embed` and the plan of a sweep: what is stored, what will be, and what that takes."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from beamclip.config import Experiment, UserError
from beamclip.console import Bars
from beamclip.places import placed
from beamclip.storage import check_writable, stores_root

_VERIFY_BELOW = 0.999  # as training.checking.ENOUGH, which would import torch here

Need = Mapping[str, Any]
"""A `beamclip.training.planning.Need` as a dict."""


def pack_images(experiment: Experiment, repair: bool) -> None:
    """Pack an experiment's images on the cluster, and say what became of them.

    Raises:
        UserError: as `beamclip.data.pack`.
    """
    from beamclip.data import open_source
    from beamclip.data.pack import cost_of_an_image, images_left

    experiment = placed(experiment)
    check_writable(experiment)
    source, config = open_source(experiment.data), experiment.data
    count = source.count("train") + source.count("test")
    each = cost_of_an_image(source, config)[1]
    about = "" if config.encoding == "raw" else "about "
    what = f"{count:,} images, {config.image_size} px {config.encoding}"
    print(f"{what}: {about}{human_bytes(round(count * each))}, into {stores_root(experiment)}", flush=True)
    _check_room(round(images_left(source, config, stores_root(experiment)) * each), stores_root(experiment))
    with preparation_of(experiment, repair) as preparation:
        packed = preparation.pack()
    path = packed["path"]
    print(f"packed {packed['images']:,} images, {human_bytes(packed['bytes'])}, in {path}")
    if packed["bad"]:
        print(f"{packed['bad']:,} can't be read: their names and the reasons are in {path}/bad.csv")


@contextmanager
def preparation_of(experiment: Experiment, repair: bool) -> Iterator[Any]:
    """The preparation of one experiment's stores, on the cluster."""
    from beamclip.distributed.joining import connect, disconnect
    from beamclip.distributed.preparation import Preparation

    connect()
    try:
        with Bars() as bars:
            yield Preparation([experiment], stores_root(experiment), bars, repair)
    finally:
        disconnect()


def embed_images(experiment: Experiment, repair: bool, verify: int) -> int:
    """Have the teachers see every view an experiment needs, and with `verify` compare so many of each store with the live teacher.

    Returns:
        1 where stored and live embeddings disagree, else 0.
    """
    experiment = placed(experiment)
    check_writable(experiment)
    with preparation_of(experiment, repair) as preparation:
        show_plan(preparation.plan(), stores_root(experiment))
        (made,) = preparation.build(untrained=False)["assets"].values()
        found = preparation.verify(verify) if verify else []
    print(f"ready in {stores_root(experiment)}; the teacher saw {json.loads(made)['facts']['teacher/images_encoded']:,} images for it now")
    return _show_verified(found)


def _show_verified(found: Sequence[Mapping[str, Any]]) -> int:
    for one in found:
        verdict = "agree" if one["lowest"] > _VERIFY_BELOW else "DISAGREE"
        cosines = f"cosine at least {one['lowest']:.5f}, mean {one['mean']:.5f}, over {one['views']} views encoded again"
        print(f"{one['store']}\n  stored and live {one['teacher']} {verdict}: {cosines}")
    if any(one["lowest"] <= _VERIFY_BELOW for one in found):
        print("a store that disagrees was made by another teacher or from other images; delete its folder and embed again")
        return 1
    return 0


def show_plan(needs: Sequence[Need], root: Path) -> None:
    """Print which stores are there, which will be made, and what that takes.

    Raises:
        UserError: they would not fit on the disk.
    """
    table = Table("store", "holds", "state", "images", "size", "time", title=f"Stores in {root}", title_justify="left")
    for need in needs:
        images = f"{need['images']:,}" if need["images"] else ""
        size = human_bytes(need["bytes"]) if need["bytes"] else ""
        time = "" if need["there"] else ("soon known" if need["seconds"] is None else human_seconds(need["seconds"]))
        table.add_row(need["store"], need["what"], "there" if need["there"] else "to make", images, size, time)
    Console(stderr=True).print(table)
    missing = [need for need in needs if not need["there"]]
    _check_room(sum(need["bytes"] for need in missing), root)


def _check_room(needed: int, root: Path) -> None:
    free = shutil.disk_usage(root).free
    if needed > free:
        text = f"{root} has {human_bytes(free)} free, and the missing stores take {human_bytes(needed)}"
        raise UserError(f"{text}; make room, choose another folder with --storage, or store less (data.encoding=jpeg, views.stored)")


def human_bytes(count: float) -> str:
    """Bytes for people, in powers of ten."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_seconds(seconds: float) -> str:
    """A duration for people."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"

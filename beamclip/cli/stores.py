"""`beamclip pack`, `beamclip embed` and the plan of a sweep: what is stored, what will be, and what that takes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from beamclip.config import Experiment
from beamclip.stores.paths import check_writable, placed, stores_root
from beamclip.sweep.plan_table import _check_room, human_bytes, show_plan
from beamclip.sweep.progress import ProgressBars

_VERIFY_BELOW = 0.999  # as training.checking.ENOUGH, which would import torch here


def pack_images(experiment: Experiment, repair: bool) -> None:
    """Pack an experiment's images on the cluster, and say what became of them.

    Raises:
        UserError: as `beamclip.data.packing`.
    """
    from beamclip.data import open_source
    from beamclip.data.packing import cost_of_an_image, images_left

    experiment = placed(experiment)
    check_writable(experiment)
    source, config = open_source(experiment.data), experiment.data
    count = source.count("train") + source.count("test")
    each = cost_of_an_image(source, config)[1]
    about = "" if config.encoding == "raw" else "about "
    what = f"{count:,} images, {config.image_size} px {config.encoding}"
    print(
        f"{what}: {about}{human_bytes(round(count * each))}, into {stores_root(experiment)}",
        flush=True,
    )
    _check_room(
        round(images_left(source, config, stores_root(experiment)) * each), stores_root(experiment)
    )
    with preparation_of(experiment, repair) as preparation:
        packed = preparation.pack()
    path = packed["path"]
    print(f"packed {packed['images']:,} images, {human_bytes(packed['bytes'])}, in {path}")
    if packed["bad"]:
        print(f"{packed['bad']:,} can't be read: their names and the reasons are in {path}/bad.csv")


@contextmanager
def preparation_of(experiment: Experiment, repair: bool) -> Iterator[Any]:
    """The preparation of one experiment's stores, on the cluster."""
    from beamclip.distributed.cluster import connect, disconnect
    from beamclip.distributed.prepare_actor import Preparation

    connect()
    try:
        with ProgressBars() as bars:
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
    print(
        f"ready in {stores_root(experiment)}; the teacher saw {json.loads(made)['facts']['teacher/images_encoded']:,} images for it now"
    )
    return _show_verified(found)


def _show_verified(found: Sequence[Mapping[str, Any]]) -> int:
    for one in found:
        verdict = "agree" if one["lowest"] > _VERIFY_BELOW else "DISAGREE"
        cosines = f"cosine at least {one['lowest']:.5f}, mean {one['mean']:.5f}, over {one['views']} views encoded again"
        print(f"{one['store']}\n  stored and live {one['teacher']} {verdict}: {cosines}")
    if any(one["lowest"] <= _VERIFY_BELOW for one in found):
        print(
            "a store that disagrees was made by another teacher or from other images; delete its folder and embed again"
        )
        return 1
    return 0

"""`beamclip pack` and `beamclip embed`: build the stores of one experiment on the cluster."""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from beamclip.cli.options import experiment_from_options
from beamclip.config import Experiment
from beamclip.distributed.store_reports import VerifiedStore
from beamclip.stores.absolute import with_absolute_paths
from beamclip.stores.paths import check_writable, stores_root
from beamclip.sweep.plan_table import check_disk_space, human_bytes, print_plan
from beamclip.sweep.progress import ProgressBars

if TYPE_CHECKING:
    from beamclip.distributed.prepare_actor import Preparation

# Equals `beamclip.preparation.verify.MIN_COSINE`, whose module would import torch here.
MIN_VERIFIED_COSINE = 0.999


def run_pack(options: argparse.Namespace) -> None:
    """Pack the images of the experiment given by the options."""
    pack_images(experiment_from_options(options), options.repair)


def run_embed(options: argparse.Namespace) -> int:
    """Build the embedding stores; return 1 if --verify finds one that disagrees, else 0."""
    return embed_images(experiment_from_options(options), options.repair, options.verify)


def pack_images(experiment: Experiment, repair: bool) -> None:
    """Pack an experiment's images on the cluster and print size and unreadable images.

    Args:
        experiment: its `data` settings say which images to pack, and how.
        repair: verify checksums, and build a damaged store again.

    Raises:
        UserError: the images can't be read or don't fit on the disk; see `beamclip.data.packing`.
    """
    from beamclip.data import open_packed, open_source, val_note
    from beamclip.data.gray import describe_gray
    from beamclip.data.packing import count_unpacked, measure_image_cost

    # The work is done by other processes, in other folders.
    experiment = with_absolute_paths(experiment)
    check_writable(experiment)

    # Print the size before packing starts, which may take hours.
    config = experiment.data
    root = stores_root(experiment)
    source = open_source(config)
    images = source.count("train") + source.count("test")
    _, image_bytes = measure_image_cost(source, config)
    # Raw images all have the same size. The size of JPEG files is measured on a few of them.
    about = "" if config.encoding == "raw" else "about "
    size = human_bytes(round(images * image_bytes))
    kind = f"{config.image_size} px {config.encoding}{describe_gray(source, config)}"
    print(f"{images:,} images, {kind}: {about}{size}, into {root}", flush=True)
    for note in source.notes:
        print(note, flush=True)
    missing_images = count_unpacked(source, config, root)
    check_disk_space(round(missing_images * image_bytes), root)

    with open_preparation(experiment, repair) as preparation:
        packed = preparation.pack()
    path = packed["path"]
    print(f"packed {packed['images']:,} images, {human_bytes(packed['bytes'])}, in {path}")
    if packed["bad"]:
        print(
            f"{packed['bad']:,} images can't be read; "
            f"{path}/bad.csv has their names and the reasons"
        )
    if packed["flat"]:
        print(
            f"{packed['flat']:,} images are nearly one color, with fewer than 16 levels of 256; "
            f"{path}/flat.csv has their names. If they should be brighter, set data.gray_range for "
            "gray files, or convert color files of 16 bits to 8"
        )
    small_classes = val_note(open_packed(Path(path)), config)
    if small_classes:
        print(small_classes)


def embed_images(experiment: Experiment, repair: bool, verify: int) -> int:
    """Encode every view that an experiment needs with its teachers, on the cluster.

    Args:
        experiment: the settings.
        repair: verify checksums, and build damaged stores again.
        verify: number of views of each store to encode again and compare; 0: none.

    Returns:
        1 if stored and new embeddings disagree, else 0.

    Raises:
        UserError: a store can't be built or doesn't fit on the disk.
    """
    experiment = with_absolute_paths(experiment)
    check_writable(experiment)
    root = stores_root(experiment)
    with open_preparation(experiment, repair) as preparation:
        print_plan(preparation.plan(), root)
        # One experiment has one asset key.
        (assets,) = preparation.build(untrained=False)["assets"].values()
        verified = preparation.verify(verify) if verify else []
    encoded = json.loads(assets)["facts"]["teacher/images_encoded"]
    print(f"ready in {root}; the teacher encoded {encoded:,} images now")
    return _print_verified(verified)


@contextmanager
def open_preparation(experiment: Experiment, repair: bool) -> Iterator["Preparation"]:
    """Join or start a Ray cluster, and yield the preparation of one experiment's stores on it.

    Raises:
        UserError: the cluster doesn't answer, or a local one can't be started.
    """
    from beamclip.distributed.cluster import connect, disconnect
    from beamclip.distributed.prepare_actor import Preparation

    connect()
    try:
        with ProgressBars() as bars:
            yield Preparation([experiment], stores_root(experiment), bars, repair)
    finally:
        disconnect()


def _print_verified(verified: Sequence[VerifiedStore]) -> int:
    """Print the result for each store; return 1 if one disagrees with its teacher, else 0."""
    exit_code = 0
    for store in verified:
        agrees = store["lowest"] > MIN_VERIFIED_COSINE
        verdict = "agree" if agrees else "DISAGREE"
        print(
            f"{store['store']}\n"
            f"  stored and new embeddings of {store['teacher']} {verdict}: "
            f"cosine at least {store['lowest']:.5f}, mean {store['mean']:.5f}, "
            f"over {store['views']} views encoded again"
        )
        if not agrees:
            exit_code = 1
    if exit_code:
        print(
            "a store that disagrees was built by another teacher or from other images; "
            "delete its folder and run beamclip embed again"
        )
    return exit_code

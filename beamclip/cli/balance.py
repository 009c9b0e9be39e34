"""`beamclip balance`: one image of each set of near-duplicates, and what that leaves out."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from beamclip.cli.stores import preparation_of
from beamclip.config import Experiment, UserError
from beamclip.stores.paths import check_writable, placed

_SHOWN = 10  # classes at either end


def balance_images(experiment: Experiment, repair: bool, words: Sequence[str]) -> None:
    """Balance an experiment's training images, print what became of them, and say how to train on those that are kept.

    Args:
        words: the options of the command line that training needs again.

    Raises:
        UserError: neither a threshold nor a share is given, or as `beamclip.preparation.teacher_passes.make_balance`.
    """
    if not experiment.balance.active:
        example = "--set balance.remove=0.437, or a cosine distance as --set balance.threshold=0.1"
        raise UserError(
            f"balance needs to know how much to leave out: give a share such as {example}"
        )
    experiment = placed(experiment)
    check_writable(experiment)
    with preparation_of(experiment, repair) as preparation:
        made = preparation.balance()
    report, path = made["report"], made["path"]
    Console().print(_table(report))
    _say_missed(report)
    print(
        f"what was merged, to look at: {path}/merged.png\nall numbers: {path}/report.json\nthe images kept: {path}/kept.json"
    )
    seed, fraction = experiment.data.split_seed, experiment.data.val_fraction
    print(
        f"chosen from train as data.split_seed={seed} and data.val_fraction={fraction:g} leave it\n"
    )
    print(f"train on these:  {train_line(words, path)}")


def train_line(words: Sequence[str], path: str) -> str:
    """What to type to train on the images kept in this store."""
    once = [
        "--set",
        "balance.remove=null",
        "--set",
        "balance.threshold=null",
    ]  # a preset may ask for balance, too
    return shlex.join(["beamclip", "train", *words, "--set", f"data.keep={path}/kept.json", *once])


def _table(report: Mapping[str, Any]) -> Table:
    table = Table("", "", title="Image semantic balance", title_justify="left", show_header=False)
    largest, sure = report["largest"], "" if report["largest"]["distance_is_sure"] else "at least "
    for name, value in (
        ("images", f"{report['images']:,}"),
        ("kept", f"{report['kept']:,}"),
        ("removed", f"{report['removed']:,}, {100 * report['removed_share']:.1f} %"),
        ("joined below", f"cosine distance {report['threshold']:.7g}"),
        ("sets", f"{report['sets']:,}, {report['sets_of_several']:,} of several images"),
        (
            "largest chain",
            f"{largest['size']:,} images; the two farthest are {sure}{largest['distance']:.3f} apart",
        ),
        ("found by", _search(report["search"])),
        ("removed of", escape("\n".join(_classes(report["classes"])))),
    ):
        table.add_row(name, value)
    return table


def _search(facts: Mapping[str, Any]) -> str:
    if facts["method"] == "exact":
        return "comparing every pair"
    return f"{facts['neighbours']} neighbours an image from an index, which knows {100 * facts['recall']:.1f} % of the ten nearest"


def _classes(classes: Sequence[Mapping[str, Any]]) -> list[str]:
    ordered = sorted(classes, key=lambda one: -one["share"])
    lines = [f"{one['name']}  {100 * one['share']:.1f} % of {one['images']:,}" for one in ordered]
    return lines if len(lines) <= 2 * _SHOWN else [*lines[:_SHOWN], "…", *lines[-_SHOWN:]]


def _say_missed(report: Mapping[str, Any]) -> None:
    """Where a share was asked for and another one is what could be had."""
    wanted, found = report["asked"]["remove"], report["removed_share"]
    if wanted is not None and abs(wanted - found) > 0.005:
        why = "images that are equally far apart can only go together, and an index joins no more than it knows neighbours"
        print(f"asked for {100 * wanted:.1f} %, found {100 * found:.1f} %: {why}")

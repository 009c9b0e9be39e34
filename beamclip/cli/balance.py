"""`beamclip balance`: keep one image of each set of near-duplicates, and report what is removed."""

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from beamclip.cli.options import experiment_from_options
from beamclip.cli.stores import open_preparation
from beamclip.config import Experiment, UserError
from beamclip.stores.absolute import with_absolute_paths
from beamclip.stores.paths import check_writable

if TYPE_CHECKING:
    from beamclip.balance.neighbors import SearchFacts
    from beamclip.balance.report import BalanceReport, ClassBalance

# Number of classes listed at either end of the ranking by removed share.
_MAX_CLASSES = 10
# The report explains a larger difference between the share asked for and the share removed.
_SHARE_TOLERANCE = 0.005


def run_balance(options: argparse.Namespace) -> None:
    """Balance the training images of the experiment given by the options."""
    arguments = _experiment_arguments(options)
    balance_images(experiment_from_options(options), options.repair, arguments)


def balance_images(experiment: Experiment, repair: bool, arguments: Sequence[str]) -> None:
    """Balance an experiment's training images, and print a report and the command to train on them.

    Args:
        experiment: the settings; `balance` says how many images to leave out.
        repair: verify checksums, and build damaged stores again.
        arguments: words of the command line that describe the experiment, for the command that
            is printed.

    Raises:
        UserError: neither a threshold nor a share is given, or a store can't be built; see
            `beamclip.preparation.teacher_passes.balance_train_images`.
    """
    if not experiment.balance.active:
        raise UserError(
            "balance needs to know how many images to leave out: give a share such as "
            "--set balance.remove=0.437, or a cosine distance as --set balance.threshold=0.1"
        )
    experiment = with_absolute_paths(experiment)
    check_writable(experiment)
    with open_preparation(experiment, repair) as preparation:
        balance = preparation.balance()
    report = cast("BalanceReport", balance["report"])
    path = balance["path"]
    Console().print(_report_table(report))
    _print_missed_share(report)
    print(f"merged images, to look at: {path}/merged.png")
    print(f"all numbers: {path}/report.json")
    print(f"images kept: {path}/kept.json")
    data = experiment.data
    print(
        f"chosen from train with data.split_seed={data.split_seed} and "
        f"data.val_fraction={data.val_fraction:g}\n"
    )
    print(f"train on these:  {train_command(arguments, path)}")


def train_command(arguments: Sequence[str], path: str) -> str:
    """Return the command that trains on the images kept in a store.

    Args:
        arguments: words of the command line that describe the experiment.
        path: folder of the store.
    """
    keep = ["--set", f"data.keep={path}/kept.json"]
    # The preset may ask for balance as well, and the kept images must not be balanced again.
    no_balance = ["--set", "balance.remove=null", "--set", "balance.threshold=null"]
    return shlex.join(["beamclip", "train", *arguments, *keep, *no_balance])


def _experiment_arguments(options: argparse.Namespace) -> list[str]:
    """Return the words of a command line that give the same experiment without its balance."""
    values = [
        ("--preset", options.preset),
        ("--data", options.data),
        ("--storage", options.storage),
        ("--tracking-uri", options.tracking_uri),
    ]
    values += [("--set", item) for item in options.set if not item.startswith("balance.")]
    arguments = []
    for option, value in values:
        if value is not None:
            arguments += [option, value]
    return arguments


def _report_table(report: "BalanceReport") -> Table:
    """Return the store's `report.json` as a table."""
    largest = report["largest"]
    # The distance is a lower bound if not all pairs were compared.
    at_least = "" if largest["distance_is_sure"] else "at least "
    table = Table("", "", title="Image semantic balance", title_justify="left", show_header=False)
    table.add_row("images", f"{report['images']:,}")
    table.add_row("kept", f"{report['kept']:,}")
    table.add_row("removed", f"{report['removed']:,}, {100 * report['removed_share']:.1f} %")
    table.add_row("joined below", f"cosine distance {report['threshold']:.7g}")
    table.add_row("sets", f"{report['sets']:,}, {report['sets_of_several']:,} of several images")
    farthest = f"{at_least}{largest['distance']:.3f}"
    table.add_row(
        "largest chain", f"{largest['size']:,} images; the two farthest are {farthest} apart"
    )
    table.add_row("found by", _search_method(report["search"]))
    table.add_row("removed of", escape("\n".join(_class_lines(report["classes"]))))
    return table


def _search_method(search: "SearchFacts") -> str:
    if search["method"] == "exact":
        return "comparing every pair"
    # Keys of stored reports must not change, so this one keeps its British spelling.
    return (
        f"{search['neighbours']} neighbors per image from an index, "
        f"which finds {100 * search['recall']:.1f} % of the ten nearest"
    )


def _class_lines(classes: "Sequence[ClassBalance]") -> list[str]:
    """Return a line per class, largest removed share first; a long list is cut in the middle."""
    by_share = sorted(classes, key=lambda row: -row["share"])
    lines = [f"{row['name']}  {100 * row['share']:.1f} % of {row['images']:,}" for row in by_share]
    if len(lines) <= 2 * _MAX_CLASSES:
        return lines
    return [*lines[:_MAX_CLASSES], "…", *lines[-_MAX_CLASSES:]]


def _print_missed_share(report: "BalanceReport") -> None:
    """Explain why the share removed is not the one asked for, if they differ."""
    asked = report["asked"]["remove"]
    removed = report["removed_share"]
    if asked is not None and abs(asked - removed) > _SHARE_TOLERANCE:
        print(
            f"asked for {100 * asked:.1f} %, removed {100 * removed:.1f} %: pairs of images at the "
            "same distance are joined together or not at all, and an index can only join an image "
            "to the neighbors it has found"
        )

"""`beamclip balance`: keep one image of each set of near-duplicates, and report the others."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from beamclip.cli.options import experiment_from_options
from beamclip.cli.stores import open_preparation
from beamclip.config import Experiment, UserError
from beamclip.stores.absolute import with_absolute_paths
from beamclip.stores.paths import check_writable

# Number of classes that are listed at either end.
_MAX_CLASSES = 10
# A larger difference between the share asked for and the share removed is explained.
_SHARE_TOLERANCE = 0.005


def run_balance(options: argparse.Namespace) -> None:
    """Balance an experiment's training images."""
    words = _experiment_words(options)
    balance_images(experiment_from_options(options), options.repair, words)


def balance_images(experiment: Experiment, repair: bool, words: Sequence[str]) -> None:
    """Balance an experiment's training images and print a report and how to train on the result.

    Args:
        experiment: the settings; `balance` says how much to leave out.
        repair: verify checksums, and build damaged stores again.
        words: options of the command line that training needs again.

    Raises:
        UserError: neither a threshold nor a share is given, or a store can't be built; see
            `beamclip.preparation.teacher_passes.balance_train_images`.
    """
    if not experiment.balance.active:
        raise UserError(
            "balance needs to know how much to leave out: give a share such as "
            "--set balance.remove=0.437, or a cosine distance as --set balance.threshold=0.1"
        )
    experiment = with_absolute_paths(experiment)
    check_writable(experiment)
    with open_preparation(experiment, repair) as preparation:
        balance = preparation.balance()
    report = balance["report"]
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
    print(f"train on these:  {train_command(words, path)}")


def train_command(words: Sequence[str], path: str) -> str:
    """Return the command that trains on the images kept in a store.

    Args:
        words: options that describe the experiment.
        path: folder of the store.
    """
    keep = ["--set", f"data.keep={path}/kept.json"]
    # The preset may ask for balance, too; it must not happen twice.
    no_balance = ["--set", "balance.remove=null", "--set", "balance.threshold=null"]
    return shlex.join(["beamclip", "train", *words, *keep, *no_balance])


def _experiment_words(options: argparse.Namespace) -> list[str]:
    """Return the command-line words that describe the same experiment without its balance."""
    values = [
        ("--preset", options.preset),
        ("--data", options.data),
        ("--storage", options.storage),
        ("--tracking-uri", options.tracking_uri),
    ]
    values += [("--set", item) for item in options.set if not item.startswith("balance.")]
    words = []
    for option, value in values:
        if value is not None:
            words += [option, value]
    return words


def _report_table(report: Mapping[str, Any]) -> Table:
    """Return the report as a table.

    Args:
        report: the store's `report.json`, see `beamclip.balance.report.summarize_balance`.
    """
    largest = report["largest"]
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


def _search_method(search: Mapping[str, Any]) -> str:
    if search["method"] == "exact":
        return "comparing every pair"
    return (
        f"{search['neighbours']} neighbors an image from an index, "
        f"which finds {100 * search['recall']:.1f} % of the ten nearest"
    )


def _class_lines(classes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each class, the one that lost most first, without those in the middle."""
    by_share = sorted(classes, key=lambda row: -row["share"])
    lines = [f"{row['name']}  {100 * row['share']:.1f} % of {row['images']:,}" for row in by_share]
    if len(lines) <= 2 * _MAX_CLASSES:
        return lines
    return [*lines[:_MAX_CLASSES], "…", *lines[-_MAX_CLASSES:]]


def _print_missed_share(report: Mapping[str, Any]) -> None:
    """Explain why another share than the one asked for was removed, if so."""
    asked = report["asked"]["remove"]
    removed = report["removed_share"]
    if asked is not None and abs(asked - removed) > _SHARE_TOLERANCE:
        print(
            f"asked for {100 * asked:.1f} %, removed {100 * removed:.1f} %: images that are "
            "equally far apart are only removed together, and an index joins no more images than "
            "it knows neighbors"
        )

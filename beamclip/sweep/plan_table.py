"""Print the plan of a sweep: which stores exist, which are to be built, and what that takes."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from beamclip.config import UserError
from beamclip.distributed.store_reports import PlannedStore
from beamclip.reporting.durations import format_duration


def print_plan(stores: Sequence[PlannedStore], root: Path) -> None:
    """Print a table of the stores that a sweep needs to stderr, and their notes below it.

    Args:
        stores: the stores in the order in which they are built.
        root: folder of all stores.

    Raises:
        UserError: the missing ones don't fit on the disk.
    """
    table = Table(
        "store",
        "holds",
        "state",
        "images",
        "size",
        "time",
        title=f"Stores in {root}",
        title_justify="left",
    )
    for store in stores:
        table.add_row(
            store["store"],
            store["description"],
            "exists" if store["exists"] else "to build",
            f"{store['images']:,}" if store["images"] else "",
            human_bytes(store["bytes"]) if store["bytes"] else "",
            _build_time(store),
        )
    console = Console(stderr=True)
    console.print(table)
    # Several stores may come from one teacher.
    notes = dict.fromkeys(store.get("note", "") for store in stores)
    for note in filter(None, notes):
        console.print(note, markup=False, highlight=False)
    missing_bytes = sum(store["bytes"] for store in stores if not store["exists"])
    check_disk_space(missing_bytes, root)


def _build_time(store: PlannedStore) -> str:
    if store["exists"]:
        return ""
    if store["seconds"] is None:
        return "not known yet"
    # An estimate below one second would be printed as 0s.
    return format_duration(max(1.0, store["seconds"]))


def check_disk_space(needed: int, root: Path) -> None:
    """Raise UserError if fewer than `needed` bytes are free in the folder of all stores."""
    free = shutil.disk_usage(root).free
    if needed > free:
        raise UserError(
            f"{root} has {human_bytes(free)} free, and the missing stores take "
            f"{human_bytes(needed)}; make room, choose another folder with --storage, "
            "or store less (data.encoding=jpeg, views.stored)"
        )


def human_bytes(count: float) -> str:
    """Return a size in powers of ten, with one decimal below 10: "9.5 kB", "18 kB", "2.0 GB".

    `rich.filesize.decimal` always has one decimal, more than an estimate deserves.
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            decimals = 1 if count < 10 and unit != "B" else 0
            return f"{count:.{decimals}f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"

"""Print the plan of a sweep: which stores exist, which will be made, and what that takes."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from beamclip.config import UserError

PlannedStore = Mapping[str, Any]
"""A `beamclip.preparation.plan.PlannedStore` as a dict."""


def show_plan(needs: Sequence[PlannedStore], root: Path) -> None:
    """Print which stores are there, which will be made, and what that takes.

    Raises:
        UserError: they would not fit on the disk.
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
    for need in needs:
        images = f"{need['images']:,}" if need["images"] else ""
        size = human_bytes(need["bytes"]) if need["bytes"] else ""
        time = (
            ""
            if need["there"]
            else ("soon known" if need["seconds"] is None else human_seconds(need["seconds"]))
        )
        table.add_row(
            need["store"], need["what"], "there" if need["there"] else "to make", images, size, time
        )
    Console(stderr=True).print(table)
    missing = [need for need in needs if not need["there"]]
    _check_room(sum(need["bytes"] for need in missing), root)


def _check_room(needed: int, root: Path) -> None:
    free = shutil.disk_usage(root).free
    if needed > free:
        text = f"{root} has {human_bytes(free)} free, and the missing stores take {human_bytes(needed)}"
        raise UserError(
            f"{text}; make room, choose another folder with --storage, or store less (data.encoding=jpeg, views.stored)"
        )


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

"""The comparison as text in rows and columns: what the terminal, the page and its Markdown twin all show."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from beamclip.tracking.cells import Cell, Row
from beamclip.tracking.compare import Comparison
from beamclip.tracking.labels import short_names
from beamclip.tracking.noise import TEST, verdicts

DEVICE_SECONDS, VAL = "cost/device_seconds", "linear_probe/val_top1"
SPEED = "img/s"
_MARKS = {"worse": "worse", "better": "better", "not told apart": "≈ best", None: ""}


@dataclass(frozen=True)
class Line:
    """One line of a sheet. `kind`: best, trial, reference or published."""

    kind: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """A table of texts.

    Attributes:
        head: a title a column; a line break stands where a narrow column may break.
        text: how many columns from the left hold words; the others hold numbers.
    """

    title: str
    head: tuple[str, ...]
    lines: tuple[Line, ...]
    text: int

    def without(self, name: str) -> "Sheet":
        """The same table less a column of numbers."""
        gone = self.head.index(name, self.text)
        lines = tuple(replace(line, cells=line.cells[:gone] + line.cells[gone + 1 :]) for line in self.lines)
        return replace(self, head=self.head[:gone] + self.head[gone + 1 :], lines=lines)


def measured_sheet(comparison: Comparison, columns: int | None = None) -> Sheet:
    """A line a cell, its numbers the mean over seeds where it has several, then the references.

    Args:
        columns: with more settings than this, one column has them all.
    """
    names = short_names(comparison.settings)
    apart = columns is None or len(names) <= columns
    own = list(names.values()) if apart else ["settings"]
    extra = [] if comparison.metric == VAL else [comparison.metric]
    costed = any(DEVICE_SECONDS in row.metrics for row in comparison.trials)
    numbers = [*extra, "probe\nval", "probe\ntest", "kNN", "zero-\nshot", SPEED, "device\ntime" if costed else "time"]
    lines = []
    for cell, verdict in zip(comparison.cells, verdicts(comparison), strict=True):
        best = cell is comparison.best_cell
        settings = [short_number(cell.values.get(key, "-")) for key in names] if apart else [cell.name]
        shown = (*settings, *_numbers(cell, extra, costed, True), _status(cell))
        lines.append(Line("best", ("* best", *shown)) if best else Line("trial", (_MARKS[verdict], *shown)))
    for row in comparison.references:
        known = [row.values.get(key, "") for key in names] if apart else [""]
        lines.append(Line("reference", (row.method, *known, *_numbers(Cell((row,)), extra, costed, False), _status(Cell((row,))))))
    title = "measured here, top-1 in %"
    return Sheet(title, ("run", *own, *numbers, "status"), tuple(lines), 1 + len(own))


def short_number(value: str) -> str:
    """A number with four digits, anything else as it is."""
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value


def _numbers(cell: Cell, extra: list[str], costed: bool, trial: bool) -> list[str]:
    speed, seconds = cell.mean("train/images_per_second"), cell.mean(DEVICE_SECONDS) if costed else _wall_seconds(cell.rows)
    return [
        *(per_cent(cell, key) for key in [*extra, VAL]),
        over_images(cell) or per_cent(cell, TEST),
        *(per_cent(cell, key) for key in ("knn/test_top1", "zero_shot/test_top1")),
        "-" if speed is None else f"{speed:.0f}",
        duration(seconds) if trial else "-",
    ]


def per_cent(cell: Cell, key: str) -> str:
    """`44.0`, or over seeds `44.0 ±1.3`: the mean and half of its 95 % interval."""
    mean, half = cell.mean(key), cell.half_interval(key)
    return "-" if mean is None else f"{mean:.1f}" if half is None else f"{mean:.1f} ±{half:.1f}"


def over_images(cell: Cell) -> str | None:
    """`44.0 (41.8-46.5)` of a single run that has its interval."""
    found = [cell.numbers(key) for key in (TEST, f"{TEST}_low", f"{TEST}_high")]
    return "{:.1f} ({:.1f}-{:.1f})".format(*(numbers[0] for numbers in found)) if all(len(numbers) == 1 for numbers in found) else None


def _status(cell: Cell) -> str:
    """The rule is short, the exceptions stand out."""
    others = [row.status for row in cell.rows if row.status != "FINISHED"]
    if len(cell.rows) == 1:
        return others[0] if others else "done"
    done = len(cell.finished)
    return f"{done} done" if not others else f"{done} of {len(cell.rows)}, {others[0]}"


def _wall_seconds(rows: Sequence[Row]) -> float | None:
    known = [row.seconds for row in rows if row.seconds is not None]
    return sum(known) / len(known) if known else None


def duration(seconds: float | None) -> str:
    """`7s`, `2m05s`, `3h07m`."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def published_sheet(rows: Sequence[Row]) -> Sheet:
    """What others report."""
    lines = [_published_line(row) for row in rows]
    title = "published (other data and probe; not measured here), top-1 in %"
    return Sheet(title, ("method", "top-1", "data", "student", "teacher", "source"), tuple(lines), 1)


def _published_line(row: Row) -> Line:
    shown = (row.tags.get(tag, "-") for tag in ("dataset", "student", "teacher", "reference"))
    return Line("published", (row.method, per_cent(Cell((row,)), TEST), *shown))

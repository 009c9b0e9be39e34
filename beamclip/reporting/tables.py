"""The comparison as a table: on a terminal, in a log file, in an issue."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from beamclip.reporting.comparison import Comparison
from beamclip.reporting.groups import Cell, Row
from beamclip.reporting.importance import effects_line
from beamclip.reporting.significance import LEVEL, TEST, over_seeds, verdicts
from beamclip.tracking.serialize import short_names

# The comparison as text in rows and columns: what the terminal, the page and its Markdown twin all show.


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
        lines = tuple(
            replace(line, cells=line.cells[:gone] + line.cells[gone + 1 :]) for line in self.lines
        )
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
    numbers = [
        *extra,
        "probe\nval",
        "probe\ntest",
        "kNN",
        "zero-\nshot",
        SPEED,
        "device\ntime" if costed else "time",
    ]
    lines = []
    for cell, verdict in zip(comparison.cells, verdicts(comparison), strict=True):
        best = cell is comparison.best_cell
        settings = (
            [short_number(cell.values.get(key, "-")) for key in names] if apart else [cell.name]
        )
        shown = (*settings, *_numbers(cell, extra, costed, True), _status(cell))
        lines.append(
            Line("best", ("* best", *shown)) if best else Line("trial", (_MARKS[verdict], *shown))
        )
    for row in comparison.references:
        known = [row.values.get(key, "") for key in names] if apart else [""]
        lines.append(
            Line(
                "reference",
                (
                    row.method,
                    *known,
                    *_numbers(Cell((row,)), extra, costed, False),
                    _status(Cell((row,))),
                ),
            )
        )
    title = "measured here, top-1 in %"
    return Sheet(title, ("run", *own, *numbers, "status"), tuple(lines), 1 + len(own))


def short_number(value: str) -> str:
    """A number with four digits, anything else as it is."""
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value


def _numbers(cell: Cell, extra: list[str], costed: bool, trial: bool) -> list[str]:
    speed, seconds = (
        cell.mean("train/images_per_second"),
        cell.mean(DEVICE_SECONDS) if costed else _wall_seconds(cell.rows),
    )
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
    return (
        "{:.1f} ({:.1f}-{:.1f})".format(*(numbers[0] for numbers in found))
        if all(len(numbers) == 1 for numbers in found)
        else None
    )


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
    return (
        f"{whole // 60}m{whole % 60:02d}s"
        if whole < 3600
        else f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    )


def published_sheet(rows: Sequence[Row]) -> Sheet:
    """What others report."""
    lines = [_published_line(row) for row in rows]
    title = "published (other data and probe; not measured here), top-1 in %"
    return Sheet(
        title, ("method", "top-1", "data", "student", "teacher", "source"), tuple(lines), 1
    )


def _published_line(row: Row) -> Line:
    shown = (row.tags.get(tag, "-") for tag in ("dataset", "student", "teacher", "reference"))
    return Line("published", (row.method, per_cent(Cell((row,)), TEST), *shown))


# What has to be said under a comparison's table.


_FAILURES = 3  # named; the others are counted


def notes(comparison: Comparison) -> list[str]:
    """What marks and intervals mean, and what to know before believing them, in sentences."""
    of_the_best = (
        _best_note,
        _student_note,
        _tie_note,
        _untrained_note,
        _interval_note,
        _noise_note,
    )
    said = [note(comparison) for note in of_the_best] if comparison.best_cell else []
    return [
        line
        for line in [
            *said,
            _unfinished_note(comparison),
            *_failures(comparison),
            _chance_note(comparison),
        ]
        if line
    ]


def _best_note(comparison: Comparison) -> str:
    seeds = (
        comparison.best_cell is not None
        and len(comparison.best_cell.numbers(comparison.metric)) > 1
    )
    return f"* best: chosen on {'the mean over seeds of ' if seeds else ''}{comparison.metric}, held out of train, not on test"


def _student_note(comparison: Comparison) -> str:
    row = comparison.best
    return (
        f"the best student is run:{row.run_id}, to begin from with student.init or to probe again"
        if row
        else ""
    )


def _tie_note(comparison: Comparison) -> str:
    best, metric = comparison.best_cell, comparison.metric
    assert best is not None
    alike = [
        cell
        for cell in comparison.cells
        if cell.finished and len(cell.numbers(metric)) == len(best.numbers(metric))
    ]
    ties = sum(cell.mean(metric) == best.mean(metric) for cell in alike)
    return (
        f"{ties} settings have the very same {metric}; which of them is marked says nothing"
        if ties > 1
        else ""
    )


def _unfinished_note(comparison: Comparison) -> str:
    asked = int(comparison.params.get("sweep.trials", len(comparison.trials)))
    over = sum(row.status in ("FINISHED", "FAILED") for row in comparison.trials)
    return (
        ""
        if over >= asked
        else f"{over} of {asked} trials are over; what is missing is not in the table (go on with --resume)"
    )


def _failures(comparison: Comparison) -> list[str]:
    failed = [row for row in comparison.trials if row.status == "FAILED"]
    said = [
        f"failed, {row.name}: {row.tags.get('beamclip.error', 'no reason is known')}"
        for row in failed[:_FAILURES]
    ]
    return [*said, f"{len(failed) - _FAILURES} more failed"] if len(failed) > _FAILURES else said


def _chance_note(comparison: Comparison) -> str:
    near = comparison.tags.get("beamclip.teacher_near_chance")
    return (
        f"the teacher hardly knows these classes by these names, so what students learn may be noise: {near}"
        if near
        else ""
    )


def _untrained_note(comparison: Comparison) -> str:
    rows = [
        row
        for row in comparison.references
        if row.method == "untrained" and comparison.metric in row.metrics
    ]
    base = max((row.metrics[comparison.metric] for row in rows), default=None)
    mean = comparison.best_cell.mean(comparison.metric) if comparison.best_cell else None
    if base is None or mean is None or mean > base:
        return ""
    return f"no trial beats the untrained student on {comparison.metric} ({mean:.1f} against {base:.1f})"


def _interval_note(comparison: Comparison) -> str:
    over = "a ±b: mean over seeds and half of its 95 % interval (Student's t)"
    images = "a (b-c): one run and its 95 % interval over test images, which does not cover seeds"
    several = any(len(cell.numbers(TEST)) > 1 for cell in comparison.cells)
    single = any(
        over_images(cell)
        for cell in [*comparison.cells, *(Cell((row,)) for row in comparison.references)]
    )
    return "; ".join([over] * several + [images] * single)


def _noise_note(comparison: Comparison) -> str:
    if not any(verdicts(comparison)):
        return ""
    over = (
        "Welch's t over seeds"
        if over_seeds(comparison)
        else "over test images, unpaired; other seeds may differ by more"
    )
    return f"≈ best: not told apart from the best on {TEST}; worse, better: told apart ({over}; Holm, {100 * LEVEL:.0f} %)"


_PLAIN_WIDTH = 100
_ENDLESS = 10_000
_COLUMNS_BY_KEY = 3  # more varied keys than this share one column
_STYLES = {"best": "bold", "reference": "dim", "published": "dim"}


def render(comparison: Comparison, console: Console) -> None:
    """Print trials and references, then, apart, what was published. Without a terminal: plain, 100 columns or more."""
    before = console.width
    console.width = before if console.is_terminal else max(_PLAIN_WIDTH, before)
    try:
        _print(comparison, console)
    finally:
        console.width = before


def _print(comparison: Comparison, console: Console) -> None:
    console.print(heading(comparison), highlight=False, markup=False)
    console.print(_fitting(measured_sheet(comparison, _COLUMNS_BY_KEY), console))
    effects = effects_line(comparison) if comparison.best_cell is not None else None
    if lines := "\n".join(filter(None, (*notes(comparison), effects))):
        console.print(f"{lines}\n", highlight=False, markup=False)
    if comparison.published:
        _print_published(published_sheet(comparison.published), console)


def heading(comparison: Comparison) -> str:
    """Which sweep this is, and its question below."""
    count = len(comparison.trials)
    trials = "1 trial" if count == 1 else f"{count:,} trials"
    first = f"{comparison.experiment}, sweep {comparison.sweep_id}: {trials}, {comparison.status}"
    return f"{first}\n{comparison.question}" if comparison.question.strip("-") else first


def _fitting(sheet: Sheet, console: Console) -> Table:
    """The whole table or, where the terminal is too narrow, the one without the trials' speed, which their device time says as well."""
    table = _measured(sheet)
    free = console.options.update(max_width=_ENDLESS)
    return (
        table
        if console.measure(table, options=free).maximum <= console.width
        else _measured(sheet.without(SPEED))
    )


def _measured(sheet: Sheet) -> Table:
    table = _table(sheet.title)
    table.add_column(sheet.head[0], no_wrap=True)
    for name in sheet.head[1 : sheet.text]:
        table.add_column(name, overflow="fold", min_width=min(len(name), 12))
    for name in sheet.head[sheet.text : -1]:
        table.add_column(name, justify="right", no_wrap="/" not in name or name == SPEED)
    table.add_column(sheet.head[-1], min_width=6)
    return _filled(table, sheet)


def _filled(table: Table, sheet: Sheet) -> Table:
    for index, line in enumerate(sheet.lines):
        if line.kind == "reference" and (not index or sheet.lines[index - 1].kind != "reference"):
            table.add_section()
        table.add_row(*map(Text, line.cells), style=_STYLES.get(line.kind))
    return table


def _table(title: str) -> Table:
    """Two blanks between columns, no more: everything but the speed fits 80 columns with two varied keys."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0))
    table.pad_edge = table.show_edge = False
    return table


def _print_published(sheet: Sheet, console: Console) -> None:
    """A line a result; the sources, which are long and few, by their numbers below."""
    sources = list(dict.fromkeys(line.cells[-1] for line in sheet.lines))
    table = _table(sheet.title)
    for name in sheet.head:
        table.add_column(
            name,
            justify="right" if name == "top-1" else "left",
            no_wrap=name != "teacher",
            min_width=5,
        )
    lines = tuple(
        replace(line, cells=(*line.cells[:-1], f"[{sources.index(line.cells[-1]) + 1}]"))
        for line in sheet.lines
    )
    console.print(_filled(table, replace(sheet, lines=lines)))
    for number, source in enumerate(sources, 1):
        console.print(f"[{number}] {source}", style="dim", highlight=False, markup=False)

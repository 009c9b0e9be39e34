"""Build the tables of a sweep with notes on how to read them, and print both on a terminal.

The terminal, the HTML report and its Markdown version show the same `ReportTable`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from beamclip.reporting.comparison import (
    DEVICE_SECONDS,
    TEST_METRIC,
    VAL_METRIC,
    Comparison,
)
from beamclip.reporting.durations import format_duration
from beamclip.reporting.groups import RunRow, TrialGroup
from beamclip.reporting.importance import effects_summary
from beamclip.reporting.significance import LEVEL, compare_with_best, compared_over_seeds
from beamclip.tracking.serialize import short_names

SPEED_COLUMN = "img/s"
MISSING = "-"
# Texts of the first column, for groups other than the best.
_VERDICT_MARKS = {
    "worse": "worse",
    "better": "better",
    "no significant difference": "≈ best",
    None: "",
}


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Attributes:
        kind: "best", "trial", "reference" or "published"; decides the row's style.
        cells: one text per column.
    """

    kind: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class ReportTable:
    """A table whose cells are texts.

    Attributes:
        title: title above the table; may be empty.
        columns: titles of the columns; a line break in one keeps its column narrow on a terminal.
        rows: the body.
        text_columns: number of columns, from the left, that hold words and are aligned left; the
            others hold numbers.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    text_columns: int

    def without_column(self, name: str) -> "ReportTable":
        """Return the same table without one of its number columns."""
        # Skip the text columns: the column of a setting may have the same title.
        index = self.columns.index(name, self.text_columns)

        def drop(texts: tuple[str, ...]) -> tuple[str, ...]:
            return texts[:index] + texts[index + 1 :]

        rows = tuple(replace(row, cells=drop(row.cells)) for row in self.rows)
        return replace(self, columns=drop(self.columns), rows=rows)


def measured_table(comparison: Comparison, max_setting_columns: int | None = None) -> ReportTable:
    """Return a row for each group of trials, with means over seeds, and one for each reference run.

    Args:
        comparison: the sweep.
        max_setting_columns: if more settings vary than this, they share one column; default: no
            limit.
    """
    # Columns that depend on the sweep.
    setting_names = short_names(comparison.varied_settings)
    one_column_each = max_setting_columns is None or len(setting_names) <= max_setting_columns
    setting_columns = list(setting_names.values()) if one_column_each else ["settings"]
    has_costs = any(DEVICE_SECONDS in row.metrics for row in comparison.trials)
    val_metrics = [VAL_METRIC]
    val_columns = ["probe\nval"]
    if comparison.metric != VAL_METRIC:
        val_metrics.insert(0, comparison.metric)
        val_columns.insert(0, comparison.metric)

    # Trials.
    rows = []
    for group, verdict in zip(comparison.groups, compare_with_best(comparison), strict=True):
        is_best = group is comparison.best_group
        if one_column_each:
            settings = [short_number(group.settings.get(key, MISSING)) for key in setting_names]
        else:
            settings = [group.name]
        cells = (
            "* best" if is_best else _VERDICT_MARKS[verdict],
            *settings,
            *_accuracy_and_speed(group, val_metrics),
            duration_cell(_mean_seconds(group, has_costs)),
            _status(group),
        )
        rows.append(TableRow("best" if is_best else "trial", cells))

    # References: most settings do not apply to them.
    for reference in comparison.references:
        settings = [reference.settings.get(key, "") for key in setting_names]
        group = TrialGroup((reference,))
        cells = (
            reference.method,
            *(settings if one_column_each else [""]),
            *_accuracy_and_speed(group, val_metrics),
            MISSING,
            _status(group),
        )
        rows.append(TableRow("reference", cells))

    columns = (
        "run",
        *setting_columns,
        *val_columns,
        "probe\ntest",
        "kNN",
        "zero-\nshot",
        SPEED_COLUMN,
        "device\ntime" if has_costs else "time",
        "status",
    )
    return ReportTable("measured here, top-1 in %", columns, tuple(rows), 1 + len(setting_columns))


def published_table(rows: Sequence[RunRow]) -> ReportTable:
    """Return a row for each published result of another work."""
    table_rows = []
    for row in rows:
        accuracy = format_metric(TrialGroup((row,)), TEST_METRIC)
        tags = [
            row.tags.get(tag, MISSING) for tag in ("dataset", "student", "teacher", "reference")
        ]
        table_rows.append(TableRow("published", (row.method, accuracy, *tags)))
    title = "published (other data and probe; not measured here), top-1 in %"
    columns = ("method", "top-1", "data", "student", "teacher", "source")
    return ReportTable(title, columns, tuple(table_rows), 1)


def _accuracy_and_speed(group: TrialGroup, val_metrics: Sequence[str]) -> list[str]:
    """Return the cells from the val metrics to the training speed."""
    speed = group.mean("train/images_per_second")
    return [
        *(format_metric(group, key) for key in val_metrics),
        format_image_interval(group) or format_metric(group, TEST_METRIC),
        format_metric(group, "knn/test_top1"),
        format_metric(group, "zero_shot/test_top1"),
        MISSING if speed is None else f"{speed:.0f}",
    ]


def _mean_seconds(group: TrialGroup, has_costs: bool) -> float | None:
    """Return the mean device time; for trials of older versions that logged none, wall time."""
    return group.mean(DEVICE_SECONDS) if has_costs else mean_wall_seconds(group)


def _status(group: TrialGroup) -> str:
    """Return "done" or the status of a single trial; with several seeds, how many are done."""
    unfinished = [row.status for row in group.rows if row.status != "FINISHED"]
    if len(group.rows) == 1:
        return unfinished[0] if unfinished else "done"
    if unfinished:
        return f"{len(group.finished)} of {len(group.rows)}, {unfinished[0]}"
    return f"{len(group.finished)} done"


# Formatting of numbers.


def short_number(value: str) -> str:
    """Return a number with four significant digits, any other text unchanged."""
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value


def format_metric(group: TrialGroup, key: str) -> str:
    """Return a metric as `44.0`, or with several seeds as `44.0 ±1.3` (half its 95 % interval)."""
    mean = group.mean(key)
    if mean is None:
        return MISSING
    half_interval = group.half_interval(key)
    return f"{mean:.1f}" if half_interval is None else f"{mean:.1f} ±{half_interval:.1f}"


def format_image_interval(group: TrialGroup) -> str | None:
    """Return a single run's test accuracy as `44.0 (41.8-46.5)`, or None without its interval."""
    numbers = []
    for suffix in ("", "_low", "_high"):
        values = group.metric_values(f"{TEST_METRIC}{suffix}")
        # Several seeds have an interval over seeds instead.
        if len(values) != 1:
            return None
        numbers.append(values[0])
    accuracy, low, high = numbers
    return f"{accuracy:.1f} ({low:.1f}-{high:.1f})"


def duration_cell(seconds: float | None) -> str:
    """Return a duration as `2m05s`, or `-` for None."""
    return MISSING if seconds is None else format_duration(seconds)


def mean_wall_seconds(group: TrialGroup) -> float | None:
    """Return the trials' mean wall-clock time from start to end; None if none has ended."""
    seconds = [row.seconds for row in group.rows if row.seconds is not None]
    return sum(seconds) / len(seconds) if seconds else None


# Notes below the table.

# At most so many failed trials are named; the others are counted.
_MAX_FAILURES = 3


def table_notes(comparison: Comparison) -> list[str]:
    """Return notes on what marks and intervals mean, and on results to be careful with.

    Each helper below returns one note, or "" if it does not apply to the sweep.
    """
    notes = []
    if comparison.best_group is not None:
        notes += [
            _best_note(comparison, comparison.best_group),
            _student_note(comparison),
            _tie_note(comparison, comparison.best_group),
            _untrained_note(comparison, comparison.best_group),
            _interval_note(comparison),
            _significance_note(comparison),
        ]
    notes.append(_unfinished_note(comparison))
    notes += _failure_notes(comparison)
    notes.append(_near_chance_note(comparison))
    return [note for note in notes if note]


def _best_note(comparison: Comparison, best: TrialGroup) -> str:
    metric = comparison.metric
    if len(best.metric_values(metric)) > 1:
        metric = f"the mean over seeds of {metric}"
    return f"* best: chosen on {metric}, on images held out of train, not on test"


def _student_note(comparison: Comparison) -> str:
    trial = comparison.best
    if trial is None:
        return ""
    return (
        f"the best student is run:{trial.run_id}; use it in student.init or with beamclip evaluate"
    )


def _tie_note(comparison: Comparison, best: TrialGroup) -> str:
    metric = comparison.metric
    ties = 0
    for group in comparison.groups:
        # A group with fewer seeds could not have been chosen, so it does not count.
        as_many_seeds = len(group.metric_values(metric)) == len(best.metric_values(metric))
        if group.finished and as_many_seeds and group.mean(metric) == best.mean(metric):
            ties += 1
    # The best group is one of them.
    if ties < 2:
        return ""
    return f"{ties} settings have exactly the same {metric}; the choice among them is arbitrary"


def _untrained_note(comparison: Comparison, best: TrialGroup) -> str:
    untrained = []
    for row in comparison.references:
        if row.method == "untrained" and comparison.metric in row.metrics:
            untrained.append(row.metrics[comparison.metric])
    mean = best.mean(comparison.metric)
    if not untrained or mean is None or mean > max(untrained):
        return ""
    numbers = f"{mean:.1f} against {max(untrained):.1f}"
    return f"no trial beats the untrained student on {comparison.metric} ({numbers})"


def _interval_note(comparison: Comparison) -> str:
    references = [TrialGroup((row,)) for row in comparison.references]
    notes = []
    if any(len(group.metric_values(TEST_METRIC)) > 1 for group in comparison.groups):
        notes.append("a ±b: mean over seeds and half of its 95 % interval (Student's t)")
    if any(format_image_interval(group) for group in [*comparison.groups, *references]):
        notes.append(
            "a (b-c): one run and its 95 % interval over test images, which does not cover seeds"
        )
    return "; ".join(notes)


def _significance_note(comparison: Comparison) -> str:
    if not any(compare_with_best(comparison)):
        return ""
    if compared_over_seeds(comparison):
        method = "Welch's t over seeds"
    else:
        method = "over test images, unpaired; other seeds may differ by more"
    return (
        f"≈ best: no significant difference from the best on {TEST_METRIC}; "
        f"worse, better: significantly different ({method}; Holm, {100 * LEVEL:.0f} %)"
    )


def _unfinished_note(comparison: Comparison) -> str:
    planned = int(comparison.params.get("sweep.trials", len(comparison.trials)))
    # KILLED trials were interrupted: --resume continues them.
    ended = sum(row.status in ("FINISHED", "FAILED") for row in comparison.trials)
    if ended >= planned:
        return ""
    return f"{ended} of {planned} trials have ended; continue the sweep with --resume"


def _failure_notes(comparison: Comparison) -> list[str]:
    failed = [row for row in comparison.trials if row.status == "FAILED"]
    notes = []
    for row in failed[:_MAX_FAILURES]:
        reason = row.tags.get("beamclip.error", "no reason was recorded")
        notes.append(f"failed, {row.name}: {reason}")
    if len(failed) > _MAX_FAILURES:
        notes.append(f"{len(failed) - _MAX_FAILURES} more failed")
    return notes


def _near_chance_note(comparison: Comparison) -> str:
    cases = comparison.tags.get("beamclip.teacher_near_chance")
    if not cases:
        return ""
    return (
        "the teacher hardly knows these classes by these names, "
        f"so what students learn may be noise: {cases}"
    )


# Printing.

# Least width of tables that are printed to a file or pipe.
_MIN_PLAIN_WIDTH = 100
# Wider than any table, to measure one without wrapping.
_UNLIMITED_WIDTH = 10_000
# If more settings vary than this, they share one column.
_MAX_SETTING_COLUMNS = 3
_ROW_STYLES = {"best": "bold", "reference": "dim", "published": "dim"}


def render(comparison: Comparison, console: Console) -> None:
    """Print the table of trials and references with notes, then a table of published results.

    Args:
        comparison: the sweep.
        console: where to print. If it is not a terminal, the text is plain and at least 100 columns
            wide.
    """
    width = console.width
    console.width = width if console.is_terminal else max(_MIN_PLAIN_WIDTH, width)
    try:
        _print_comparison(comparison, console)
    finally:
        console.width = width


def _print_comparison(comparison: Comparison, console: Console) -> None:
    console.print(_heading(comparison), highlight=False, markup=False)
    console.print(_fit_to_width(measured_table(comparison, _MAX_SETTING_COLUMNS), console))
    lines = table_notes(comparison)
    if comparison.best_group is not None:
        summary = effects_summary(comparison)
        lines += [summary] if summary else []
    if lines:
        console.print("\n".join([*lines, ""]), highlight=False, markup=False)
    if comparison.published:
        _print_published(published_table(comparison.published), console)


def _heading(comparison: Comparison) -> str:
    """Return the sweep's name, id, size and status, and its question on a second line."""
    count = len(comparison.trials)
    trials = "1 trial" if count == 1 else f"{count:,} trials"
    text = f"{comparison.experiment}, sweep {comparison.sweep_id}: {trials}, {comparison.status}"
    # A sweep without a question is tagged "-".
    if comparison.question.strip("-"):
        text += f"\n{comparison.question}"
    return text


def _fit_to_width(table: ReportTable, console: Console) -> Table:
    """Return the table for a console.

    If the console is too narrow, the training speed is left out; device time tells much the same.
    """
    full_table = _measured_rich_table(table)
    unlimited = console.options.update(max_width=_UNLIMITED_WIDTH)
    if console.measure(full_table, options=unlimited).maximum <= console.width:
        return full_table
    return _measured_rich_table(table.without_column(SPEED_COLUMN))


def _measured_rich_table(table: ReportTable) -> Table:
    """Convert the table of trials and references, so that rich cuts off no number."""
    rich_table = _empty_rich_table(table.title)
    rich_table.add_column(table.columns[0], no_wrap=True)
    for name in table.columns[1 : table.text_columns]:
        rich_table.add_column(name, overflow="fold", min_width=min(len(name), 12))
    for name in table.columns[table.text_columns : -1]:
        # Titles that are metric keys, such as zero_shot/val_top1, are long and may be wrapped.
        no_wrap = "/" not in name or name == SPEED_COLUMN
        rich_table.add_column(name, justify="right", no_wrap=no_wrap)
    rich_table.add_column(table.columns[-1], min_width=6)
    _add_rows(rich_table, table.rows)
    return rich_table


def _print_published(table: ReportTable, console: Console) -> None:
    """Print a line for each result. Sources are long, so they are listed below by number."""
    sources = list(dict.fromkeys(row.cells[-1] for row in table.rows))
    rich_table = _empty_rich_table(table.title)
    for name in table.columns:
        rich_table.add_column(
            name,
            justify="right" if name == "top-1" else "left",
            no_wrap=name != "teacher",
            min_width=5,
        )
    rows = []
    for row in table.rows:
        number = sources.index(row.cells[-1]) + 1
        rows.append(replace(row, cells=(*row.cells[:-1], f"[{number}]")))
    _add_rows(rich_table, rows)
    console.print(rich_table)
    for number, source in enumerate(sources, 1):
        console.print(f"[{number}] {source}", style="dim", highlight=False, markup=False)


def _empty_rich_table(title: str) -> Table:
    """Return a table without columns, with a rule below its header.

    Its padding is small: with two varied keys, everything but the speed fits into 80 columns.
    """
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0))
    table.pad_edge = False
    table.show_edge = False
    return table


def _add_rows(rich_table: Table, rows: Sequence[TableRow]) -> None:
    """Add rows, with a rule above the first reference run."""
    previous_kind = ""
    for row in rows:
        if row.kind == "reference" and previous_kind != "reference":
            rich_table.add_section()
        # As Text: in a str rich would read [brackets] of users' names as markup.
        rich_table.add_row(*[Text(cell) for cell in row.cells], style=_ROW_STYLES.get(row.kind))
        previous_kind = row.kind

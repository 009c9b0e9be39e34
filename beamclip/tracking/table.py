"""The comparison as a table: on a terminal, in a log file, in an issue."""

from rich import box
from rich.console import Console
from rich.table import Table

from beamclip.tracking.compare import Comparison, Row
from beamclip.tracking.effects import effects_line
from beamclip.tracking.labels import short_names

_PLAIN_WIDTH = 100
_COLUMNS_BY_KEY = 3  # more varied keys than this share one column


def render(comparison: Comparison, console: Console) -> None:
    """Print trials and references, then, apart, what was published. Without a terminal: plain, 100 columns or more."""
    before = console.width
    console.width = before if console.is_terminal else max(_PLAIN_WIDTH, before)
    try:
        _print(comparison, console)
    finally:
        console.width = before


def _print(comparison: Comparison, console: Console) -> None:
    console.print(_heading(comparison), highlight=False, markup=False)
    console.print(_measured(comparison))
    if comparison.best is not None:
        note = f"* best: chosen on {comparison.metric}, held out of train, not on test"
        lines = "\n".join(filter(None, (note, effects_line(comparison))))
        console.print(f"{lines}\n", highlight=False, markup=False)
    if comparison.published:
        console.print(_published(comparison.published))


def _heading(comparison: Comparison) -> str:
    count = len(comparison.trials)
    first = f"{comparison.experiment}, sweep {comparison.sweep_id}: {count} trials, {comparison.status}"
    return f"{first}\n{comparison.question}" if comparison.question.strip("-") else first


def _measured(comparison: Comparison) -> Table:
    table = _table("measured here, top-1 in %")
    names = short_names(comparison.varied)
    own = list(names.values()) if len(names) <= _COLUMNS_BY_KEY else ["settings"]
    table.add_column("run", no_wrap=True)
    for name in own:
        table.add_column(name, overflow="fold", min_width=min(len(name), 12))
    extra = [] if comparison.metric == "linear_probe/val_top1" else [comparison.metric]
    for name in [*extra, "probe\nval", "probe\ntest", "kNN", "zero-\nshot", "img/s", "time"]:
        table.add_column(name, justify="right", no_wrap=name not in extra)
    table.add_column("status", no_wrap=True)
    for row in comparison.trials:
        mark = "* best" if row is comparison.best else ""
        table.add_row(mark, *_settings(row, names, own), *_cells(row, extra), style="bold" if mark else None)
    table.add_section()
    for row in comparison.references:
        known = [row.values.get(key, "") for key in names] if len(own) == len(names) else [""]
        table.add_row(row.method, *known, *_cells(row, extra), style="dim")
    return table


def _table(title: str) -> Table:
    """Two blanks between columns, no more: everything fits 80 columns with two varied keys."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0))
    table.pad_edge = table.show_edge = False
    return table


def _settings(row: Row, names: dict[str, str], own: list[str]) -> list[str]:
    values = {key: row.values.get(key, "-") for key in names}
    return list(map(_digits, values.values())) if own == list(names.values()) else [row.name]


def _digits(value: str) -> str:
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value


def _cells(row: Row, extra: list[str]) -> list[str]:
    keys = [*extra, "linear_probe/val_top1"]
    speed = row.metrics.get("train/images_per_second")
    return [
        *(_percent(row, key) for key in keys),
        _with_interval(row),
        *(_percent(row, key) for key in ("knn/test_top1", "zero_shot/test_top1")),
        "-" if speed is None else f"{speed:.0f}",
        _duration(row.seconds) if row.kind == "trial" else "-",
        "done" if row.status == "FINISHED" else row.status,  # the rule is short, the exceptions stand out
    ]


def _percent(row: Row, key: str) -> str:
    return f"{row.metrics[key]:.1f}" if key in row.metrics else "-"


def _with_interval(row: Row) -> str:
    key = "linear_probe/test_top1"
    low, high = (_percent(row, f"{key}_{end}") for end in ("low", "high"))
    return _percent(row, key) if "-" in (low, high) else f"{_percent(row, key)} ({low}-{high})"


def _duration(seconds: float | None) -> str:
    """`7s`, `2m05s`, `3h07m`."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _published(rows: tuple[Row, ...]) -> Table:
    table = _table("published (other data and probe; not measured here), top-1 in %")
    for name in ("method", "top-1", "data", "student", "teacher", "source"):
        wraps = name in ("teacher", "source")
        table.add_column(name, justify="right" if name == "top-1" else "left", no_wrap=not wraps, min_width=5)
    for row in rows:
        shown = (row.tags.get(tag, "-") for tag in ("dataset", "student", "teacher", "reference"))
        table.add_row(row.method, _percent(row, "linear_probe/test_top1"), *shown, style="dim")
    return table

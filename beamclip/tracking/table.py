"""The comparison as a table: on a terminal, in a log file, in an issue."""

from dataclasses import replace

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from beamclip.tracking.compare import Comparison
from beamclip.tracking.effects import effects_line
from beamclip.tracking.notes import notes
from beamclip.tracking.sheet import SPEED, Sheet, measured_sheet, published_sheet

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
    return table if console.measure(table, options=free).maximum <= console.width else _measured(sheet.without(SPEED))


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
        table.add_column(name, justify="right" if name == "top-1" else "left", no_wrap=name != "teacher", min_width=5)
    lines = tuple(replace(line, cells=(*line.cells[:-1], f"[{sources.index(line.cells[-1]) + 1}]")) for line in sheet.lines)
    console.print(_filled(table, replace(sheet, lines=lines)))
    for number, source in enumerate(sources, 1):
        console.print(f"[{number}] {source}", style="dim", highlight=False, markup=False)

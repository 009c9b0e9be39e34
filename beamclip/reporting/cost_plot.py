"""Accuracy against what it cost, with the Pareto front: the settings that no others beat at their price. No pyplot, as in `plots`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from beamclip.reporting.comparison import Comparison
from beamclip.reporting.groups import Cell

COSTS = {"cost/device_seconds": "device-seconds", "cost/images_seen": "images seen"}
_LONGEST = 40  # letters of a name in the legend


@dataclass(frozen=True)
class Point:
    """What settings cost and reached: means over seeds, and half the interval of the latter where there are several."""

    cell: Cell
    cost: float
    result: float
    half: float | None


def points(comparison: Comparison, cost: str) -> list[Point]:
    """Every cell with finished trials that has both numbers, the cheapest first."""
    found = []
    for cell in (cell for cell in comparison.cells if cell.finished):
        spent, reached = cell.mean(cost), cell.mean(comparison.metric)
        if spent is not None and spent > 0 and reached is not None:
            found.append(Point(cell, spent, reached, cell.half_interval(comparison.metric)))
    return sorted(found, key=lambda point: (point.cost, -point.result))


def pareto_front(found: Sequence[Point]) -> list[Point]:
    """Those that cost less than all better ones, the cheapest first. `found`: as `points` gives them."""
    front: list[Point] = []
    for point in found:
        if not front or point.result > front[-1].result:
            front.append(point)
    return front


def cost_plot(comparison: Comparison, path: str | Path) -> Path | None:
    """Draw the metric over device-seconds and over images seen, both on a logarithm; a cost that is the same for all gets no panel.

    The front's settings carry letters, which the legend names. It is drawn on `comparison.metric`, a val metric, since picking from
    it is a choice; the untrained student is a level line.

    Returns `path`, or None where no two cells with different costs are finished.
    """
    priced = {key: points(comparison, key) for key in COSTS}
    panels = {
        key: found for key, found in priced.items() if len({point.cost for point in found}) > 1
    }
    if not panels:
        return None
    names = _letters([point.cell for found in panels.values() for point in pareto_front(found)])
    figure = Figure(figsize=(1.8 + 4.2 * len(panels) + 2.4, 4.2), layout="constrained")
    for axes, (key, found) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        _panel(axes, found, names)
        _untrained(axes, comparison)
        axes.set(xlabel=f"{COSTS[key]} (log)", title=f"{comparison.metric} against {COSTS[key]}")
        axes.title.set_fontsize("medium")
    figure.axes[0].set_ylabel(f"{comparison.metric} (%)")
    _legend(figure, names)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return Path(path)


def _letters(cells: Sequence[Cell]) -> dict[str, str]:
    """Name of settings -> a letter, or a number after z."""
    known = list(dict.fromkeys(cell.name for cell in cells))
    return {
        name: ascii_lowercase[index] if index < 26 else str(index + 1)
        for index, name in enumerate(known)
    }


def _panel(axes: Axes, found: Sequence[Point], names: dict[str, str]) -> None:
    front = pareto_front(found)
    axes.plot(
        [point.cost for point in found],
        [point.result for point in found],
        "o",
        color="C0",
        alpha=0.5,
        markersize=6,
    )
    axes.step(
        [point.cost for point in front],
        [point.result for point in front],
        "o-",
        where="post",
        color="C1",
        label="Pareto front",
    )
    for point in front:
        place, name = (point.cost, point.result), names[point.cell.name]
        axes.annotate(name, place, xytext=(4, 5), textcoords="offset points", fontweight="bold")
    for point in (point for point in found if point.half):
        axes.errorbar(point.cost, point.result, point.half, color="C0", alpha=0.5)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.12)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(MaxNLocator(4) if high / low < 6 else LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)


def _untrained(axes: Axes, comparison: Comparison) -> None:
    for row in comparison.references:
        if row.method == "untrained" and comparison.metric in row.metrics:
            axes.axhline(
                row.metrics[comparison.metric], color="grey", linestyle=":", label="untrained"
            )


def _legend(figure: Figure, names: dict[str, str]) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    blank = Line2D([], [], linestyle="none")
    for name, letter in names.items():
        handles.append(blank)
        labels.append(f"{letter}: {name if len(name) <= _LONGEST else name[: _LONGEST - 1] + '…'}")
    figure.legend(handles, labels, loc="outside right upper", fontsize="small", handlelength=1.2)

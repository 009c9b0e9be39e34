"""Plot accuracy over what it cost, with the Pareto front: settings that nothing cheaper beats."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from beamclip.reporting.comparison import DEVICE_SECONDS, IMAGES_SEEN, Comparison
from beamclip.reporting.figures import draw_reference, save_figure
from beamclip.reporting.groups import TrialGroup

COSTS = {DEVICE_SECONDS: "device-seconds", IMAGES_SEEN: "images seen"}
"""Metric of a cost -> how it is written on an axis."""
_MAX_NAME_LENGTH = 40


@dataclass(frozen=True)
class CostPoint:
    """Cost and result of one group of trials.

    Attributes:
        group: the trials.
        cost: mean over seeds.
        result: mean of the sweep's metric over seeds.
        half_interval: half the 95 % interval of `result`, None with a single seed.
    """

    group: TrialGroup
    cost: float
    result: float
    half_interval: float | None


def cost_points(comparison: Comparison, cost: str) -> list[CostPoint]:
    """Return a point for each group that has finished trials and both numbers, cheapest first.

    Args:
        comparison: the sweep.
        cost: MLflow key of the cost.
    """
    points = []
    for group in comparison.groups:
        mean_cost = group.mean(cost)
        result = group.mean(comparison.metric)
        if group.finished and mean_cost is not None and mean_cost > 0 and result is not None:
            half_interval = group.half_interval(comparison.metric)
            points.append(CostPoint(group, mean_cost, result, half_interval))
    return sorted(points, key=lambda point: (point.cost, -point.result))


def pareto_front(points: Sequence[CostPoint]) -> list[CostPoint]:
    """Return the points that no cheaper or equally cheap one beats, cheapest first.

    Args:
        points: as `cost_points` orders them.
    """
    front: list[CostPoint] = []
    for point in points:
        if not front or point.result > front[-1].result:
            front.append(point)
    return front


def cost_plot(comparison: Comparison, path: str | Path) -> Path | None:
    """Draw the sweep's metric over device-seconds and over images seen, both on a log scale.

    Letters mark the settings on the front; the legend names them. The metric is one of val, since
    picking settings from the plot is a choice. The untrained student is a level line. A cost that
    is the same for all groups gets no panel.

    Args:
        comparison: the sweep.
        path: file to write; the format follows its suffix.

    Returns:
        `path`, or None if no two finished groups differ in cost.
    """
    points_by_cost: dict[str, list[CostPoint]] = {}
    for cost in COSTS:
        points = cost_points(comparison, cost)
        if len({point.cost for point in points}) > 1:
            points_by_cost[cost] = points
    if not points_by_cost:
        return None
    on_a_front = []
    for points in points_by_cost.values():
        on_a_front += [point.group.name for point in pareto_front(points)]
    letters = _assign_letters(on_a_front)
    figure = Figure(figsize=(1.8 + 4.2 * len(points_by_cost) + 2.4, 4.2), layout="constrained")
    panels = figure.subplots(1, len(points_by_cost), sharey=True, squeeze=False)[0]
    for axes, (cost, points) in zip(panels, points_by_cost.items(), strict=True):
        _draw_panel(axes, points, letters)
        for row in comparison.references:
            if row.method == "untrained" and comparison.metric in row.metrics:
                draw_reference(axes, row, comparison.metric, ":")
        axes.set(xlabel=f"{COSTS[cost]} (log)", title=f"{comparison.metric} over {COSTS[cost]}")
        axes.title.set_fontsize("medium")
    figure.axes[0].set_ylabel(f"{comparison.metric} (%)")
    _add_legend(figure, letters)
    return save_figure(figure, path)


def _assign_letters(names: Sequence[str]) -> dict[str, str]:
    """Return a letter for each name, or a number after z."""
    letters = {}
    for index, name in enumerate(dict.fromkeys(names)):
        letters[name] = ascii_lowercase[index] if index < 26 else str(index + 1)
    return letters


def _draw_panel(axes: Axes, points: Sequence[CostPoint], letters: dict[str, str]) -> None:
    front = pareto_front(points)
    axes.plot(
        [point.cost for point in points],
        [point.result for point in points],
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
        axes.annotate(
            letters[point.group.name],
            (point.cost, point.result),
            xytext=(4, 5),
            textcoords="offset points",
            fontweight="bold",
        )
    for point in points:
        if point.half_interval:
            axes.errorbar(point.cost, point.result, point.half_interval, color="C0", alpha=0.5)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.12)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(MaxNLocator(4) if high / low < 6 else LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)


def _add_legend(figure: Figure, letters: dict[str, str]) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    blank = Line2D([], [], linestyle="none")
    for name, letter in letters.items():
        if len(name) > _MAX_NAME_LENGTH:
            name = name[: _MAX_NAME_LENGTH - 1] + "…"
        handles.append(blank)
        labels.append(f"{letter}: {name}")
    figure.legend(handles, labels, loc="outside right upper", fontsize="small", handlelength=1.2)

"""Plot accuracy over cost with the Pareto front: the settings that no cheaper ones beat."""

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
"""MLflow key of a cost -> its label on the axis."""
# Longer names are cut in the legend, which would otherwise be wider than the panels.
_MAX_NAME_LENGTH = 40


@dataclass(frozen=True)
class CostPoint:
    """Cost and result of one group of trials.

    Attributes:
        group: the trials.
        cost: mean over seeds, in seconds or images.
        result: mean of the sweep's metric over seeds, in percent.
        half_interval: half the 95 % interval of `result`; None with a single seed.
    """

    group: TrialGroup
    cost: float
    result: float
    half_interval: float | None


def cost_points(comparison: Comparison, cost: str) -> list[CostPoint]:
    """Return a point for each group with finished trials, a cost above 0 and a result.

    Args:
        comparison: the sweep.
        cost: MLflow key of the cost.

    Returns:
        The points, cheapest first; of equally cheap ones the best first.
    """
    points = []
    for group in comparison.groups:
        mean_cost = group.mean(cost)
        result = group.mean(comparison.metric)
        # A log scale can't show a cost of 0.
        if group.finished and mean_cost is not None and mean_cost > 0 and result is not None:
            half_interval = group.half_interval(comparison.metric)
            points.append(CostPoint(group, mean_cost, result, half_interval))
    return sorted(points, key=lambda point: (point.cost, -point.result))


def pareto_front(points: Sequence[CostPoint]) -> list[CostPoint]:
    """Return the points that are better than all points of the same or a lower cost.

    Args:
        points: cheapest first, as `cost_points` returns them.
    """
    front: list[CostPoint] = []
    for point in points:
        # All earlier points cost no more, and the last one on the front is the best of them.
        if not front or point.result > front[-1].result:
            front.append(point)
    return front


def cost_plot(comparison: Comparison, path: str | Path) -> Path | None:
    """Draw the sweep's metric over device-seconds and over images seen, both on a log scale.

    Letters mark the settings on the front; the legend names them. The metric is a val metric,
    because readers choose settings from this plot. The untrained student is a horizontal line. A
    cost that is the same for all groups gets no panel.

    Args:
        comparison: the sweep.
        path: file to write; its suffix decides the format.

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

    # A setting has the same letter in both panels.
    front_names = []
    for points in points_by_cost.values():
        front_names += [point.group.name for point in pareto_front(points)]
    letters = _assign_letters(front_names)

    # 4.2 inches per panel, and room for the y axis and the legend.
    width = 1.8 + 4.2 * len(points_by_cost) + 2.4
    figure = Figure(figsize=(width, 4.2), layout="constrained")
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
    """Return a letter for each distinct name, in order; after z a number."""
    letters = {}
    for index, name in enumerate(dict.fromkeys(names)):
        letters[name] = ascii_lowercase[index] if index < 26 else str(index + 1)
    return letters


def _draw_panel(axes: Axes, points: Sequence[CostPoint], letters: dict[str, str]) -> None:
    """Draw all points, the front as a step line, and the letters of the points on it."""
    front = pareto_front(points)
    axes.plot(
        [point.cost for point in points],
        [point.result for point in points],
        "o",
        color="C0",
        alpha=0.5,
        markersize=6,
    )
    # A horizontal step shows the best result that a given cost can buy.
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
    # Leave room for the letters.
    axes.margins(x=0.12, y=0.12)
    low, high = axes.get_xlim()
    # In a range this narrow, LogLocator would place hardly any ticks.
    axes.xaxis.set_major_locator(MaxNLocator(4) if high / low < 6 else LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)


def _add_legend(figure: Figure, letters: dict[str, str]) -> None:
    """Add a legend with the lines of the first panel, and a line of text for each letter."""
    # All panels have the same lines.
    handles, labels = figure.axes[0].get_legend_handles_labels()
    no_marker = Line2D([], [], linestyle="none")
    for name, letter in letters.items():
        shown_name = name
        if len(name) > _MAX_NAME_LENGTH:
            shown_name = name[: _MAX_NAME_LENGTH - 1] + "…"
        handles.append(no_marker)
        labels.append(f"{letter}: {shown_name}")
    figure.legend(handles, labels, loc="outside right upper", fontsize="small", handlelength=1.2)

"""Figures of what mattered: a panel for each setting, and all trials as lines across all settings. No pyplot, as in `plots`."""

import math
from collections.abc import Callable, Sequence
from os.path import commonprefix
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from beamclip.reporting.comparison import Comparison
from beamclip.reporting.groups import Row
from beamclip.reporting.importance import Effect, effects, measured
from beamclip.tracking.serialize import short_names

_LONGEST = 22  # letters of a value
_TURNED_FROM = 24  # letters below one panel
_HALF = 0.28  # of the line that marks a mean, where values stand one apart


def effects_plot(comparison: Comparison, path: str | Path) -> Path | None:
    """Draw the metric of every finished trial over each varied setting, the one that explains most first, with means as lines.

    Returns `path`, or None where `effects` has nothing to say.
    """
    found = effects(comparison)
    if not found:
        return None
    columns = 2 if len(found) in (2, 4) else 3
    lines = math.ceil(len(found) / columns)
    longest = max(len(label) for effect in found for label in _labels(effect))
    figure = Figure(
        figsize=(3.6 * columns, (2.9 + 0.03 * longest) * lines + 0.5), layout="constrained"
    )
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    names = short_names(effect.setting for effect in found)
    for axes, effect in zip(panels, found, strict=False):
        _panel(axes, effect, names[effect.setting])
    for axes in panels[len(found) :]:
        axes.set_axis_off()
    for axes in panels[::columns]:
        axes.set_ylabel(comparison.metric)
    figure.suptitle("What mattered? Share of the variance that each setting explains alone")
    return _saved(figure, path)


def _panel(axes: Axes, effect: Effect, name: str) -> None:
    position = _position(effect)
    for index, group in enumerate(effect.groups):
        xs = [position(value) for value in group.values]
        axes.plot(xs, group.results, "o", color="C0", alpha=0.35, markersize=5, markeredgewidth=0)
        ends = (min(xs), max(xs)) if effect.drawn else (index - _HALF, index + _HALF)
        axes.plot(ends, [group.mean] * 2, color="C1", linewidth=2.5, solid_capstyle="butt")
    if effect.numeric and not effect.drawn:
        axes.plot(
            range(len(effect.groups)),
            [group.mean for group in effect.groups],
            color="C1",
            linewidth=1,
        )
    if effect.drawn:
        if _spans_decades(effect):
            _logarithmic(axes)
    else:
        _write_values(axes, _labels(effect))
    axes.set_title(
        f"{name}: {100 * effect.share:.0f} % (by chance {100 * effect.by_chance:.0f} %)",
        fontsize="medium",
    )
    axes.grid(alpha=0.3)


def _logarithmic(axes: Axes) -> None:
    """Plain numbers, as many as there is room for."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(
        LogLocator(subs=(1, 2, 5) if high / low < 30 else (1, 3) if high / low < 1000 else (1,))
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _write_values(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    if sum(map(len, labels)) > _TURNED_FROM:
        for text in axes.get_xticklabels():
            text.set(
                rotation=35, horizontalalignment="right", rotation_mode="anchor", fontsize="small"
            )


def _position(effect: Effect) -> Callable[[str], float]:
    """Where a value stands: numbers from a range where they are, listed values one apart."""
    if effect.drawn:
        return float
    places = {
        value: float(index) for index, group in enumerate(effect.groups) for value in group.values
    }
    return places.__getitem__


def _spans_decades(effect: Effect) -> bool:
    low, high = float(effect.groups[0].values[0]), float(effect.groups[-1].values[-1])
    return low > 0 and high / low >= 4


def _labels(effect: Effect, longest: int = _LONGEST) -> list[str]:
    """What stands at the groups: long values without their middle or, where that makes two alike, from where they differ, or whole."""
    labels = [group.label for group in effect.groups]
    long = [label for label in labels if len(label) > longest]
    start = max(0, len(commonprefix(long)) - 3)  # noqa: RUF071, names, not paths
    middle = {label: f"{label[: longest // 2]}…{label[1 - longest // 2 :]}" for label in long}
    window = {label: f"…{label[start : start + longest - 2]}…" for label in long}
    shortened = ([short.get(label, label) for label in labels] for short in (middle, window, {}))
    return next(short for short in shortened if len(set(short)) == len(set(labels)))


def parallel_plot(comparison: Comparison, path: str | Path) -> Path | None:
    """Draw every finished trial as a line from setting to setting and on to its metric, which also gives its colour.

    Returns `path`, or None where fewer than three settings vary.
    """
    found = effects(comparison)[::-1]  # what explains most stands beside the metric
    if len(found) < 3:
        return None
    rows = [
        row
        for row in reversed(measured(comparison))
        if all(effect.setting in row.values for effect in found)
    ]
    figure = Figure(figsize=(1.9 * (len(found) + 1), 4.6), layout="constrained")
    axes = figure.subplots()
    results = [row.metrics[comparison.metric] for row in rows]
    scale = Normalize(min(results), max(results))
    heights = [
        *(_heights(effect, rows) for effect in found),
        [float(scale(result)) for result in results],
    ]
    chosen = comparison.best_cell.rows if comparison.best_cell else ()
    for row, result, *line in zip(rows, results, *heights, strict=True):
        best = row in chosen
        axes.plot(
            line,
            color=colormaps["viridis"](scale(result)),
            linewidth=3.0 if best else 1.2,
            alpha=1.0 if best else 0.7,
        )
    for index, effect in enumerate(found):
        _axis(axes, index, _ticks(effect))
    _axis(
        axes,
        len(found),
        [(height, f"{scale.inverse(height):.3g}") for height in (0.0, 0.25, 0.5, 0.75, 1.0)],
    )
    names = short_names(effect.setting for effect in found)
    axes.set_xticks(range(len(found) + 1), [*names.values(), comparison.metric.replace("/", "/\n")])
    axes.set(xlim=(-0.15, len(found) + 0.35), ylim=(-0.06, 1.06), yticks=[])
    axes.set_title(
        "Every trial is a line, the best thick; settings that explain more stand further right",
        fontsize="medium",
    )
    axes.spines[:].set_visible(False)
    return _saved(figure, path)


def _ticks(effect: Effect) -> list[tuple[float, str]]:
    if effect.drawn:
        ends = (effect.groups[0].values[0], effect.groups[-1].values[-1])
        return [
            (height, f"{float(value):.3g}") for height, value in zip((0.0, 1.0), ends, strict=True)
        ]
    labels = _labels(effect, 18)
    return [(index / (len(labels) - 1), label) for index, label in enumerate(labels)]


def _heights(effect: Effect, rows: Sequence[Row]) -> list[float]:
    """Where each trial crosses a setting's axis, 0 to 1; trials of one listed value stand a little apart, so that none hides another."""
    position, last = _position(effect), len(effect.groups) - 1
    at = [position(row.values[effect.setting]) for row in rows]
    if effect.drawn:
        at = [math.log(x) for x in at] if _spans_decades(effect) else at
        return [(x - min(at)) / (max(at) - min(at)) for x in at]
    return [
        x / last + 0.05 * (sum(other == x for other in at[:index]) / at.count(x) - 0.5)
        for index, x in enumerate(at)
    ]


def _axis(axes: Axes, x: int, ticks: Sequence[tuple[float, str]]) -> None:
    axes.axvline(x, color="black", linewidth=0.8, zorder=3)
    for height, text in ticks:
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0}
        axes.text(
            x + 0.04, height, text, fontsize="small", verticalalignment="center", bbox=box, zorder=4
        )


def _saved(figure: Figure, path: str | Path) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return Path(path)

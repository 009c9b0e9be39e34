"""Plot how the metric depends on the settings: one panel per setting, and parallel coordinates."""

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
from beamclip.reporting.figures import save_figure
from beamclip.reporting.groups import RunRow
from beamclip.reporting.importance import SettingEffect, setting_effects, trials_with_metric
from beamclip.tracking.serialize import short_names

# Longer labels are shortened, by plot.
_MAX_LABEL_LENGTH = 22
_MAX_PARALLEL_LABEL_LENGTH = 18
# If all labels of a panel have more characters than this together, they are rotated.
_ROTATE_LABELS_ABOVE = 24
# Half the length of the line that marks a mean, on an axis whose listed values are 1 apart.
_MEAN_HALF_LENGTH = 0.28


def effects_plot(comparison: Comparison, path: str | Path) -> Path | None:
    """Draw the metric of every finished trial over each varied setting, with the means as lines.

    The setting that explains most of the variance comes first.

    Args:
        comparison: the sweep.
        path: file to write; its suffix decides the format.

    Returns:
        `path`, or None if `setting_effects` is empty.
    """
    effects = setting_effects(comparison)
    if not effects:
        return None
    # Two or four panels fill two columns without a gap.
    columns = 2 if len(effects) in (2, 4) else 3
    rows = math.ceil(len(effects) / columns)
    labels: list[str] = []
    for effect in effects:
        labels += _group_labels(effect)
    # Rotated labels need more height.
    row_height = 2.9 + 0.03 * max(len(label) for label in labels)
    figure = Figure(figsize=(3.6 * columns, row_height * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    names = short_names(effect.setting for effect in effects)
    # Not strict: the last row may have more panels than there are effects left.
    for axes, effect in zip(panels, effects, strict=False):
        _draw_effect(axes, effect, names[effect.setting])
    for axes in panels[len(effects) :]:
        axes.set_axis_off()
    for axes in panels[::columns]:
        axes.set_ylabel(comparison.metric)
    figure.suptitle("Share of the variance that each setting explains alone")
    return save_figure(figure, path)


def _draw_effect(axes: Axes, effect: SettingEffect, name: str) -> None:
    """Draw one panel: trials as dots, the mean of each group as a line."""
    position = _value_position(effect)
    for index, group in enumerate(effect.groups):
        xs = [position(value) for value in group.values]
        axes.plot(xs, group.results, "o", color="C0", alpha=0.35, markersize=5, markeredgewidth=0)
        # The line spans the part of a range, or is as wide as a listed value.
        if effect.from_range:
            mean_ends = (min(xs), max(xs))
        else:
            mean_ends = (index - _MEAN_HALF_LENGTH, index + _MEAN_HALF_LENGTH)
        axes.plot(mean_ends, [group.mean] * 2, color="C1", linewidth=2.5, solid_capstyle="butt")
    if effect.from_range:
        if _uses_log_scale(effect):
            _set_log_scale(axes)
    else:
        # Numbers have an order, so their means are joined; names are not.
        if effect.numeric:
            means = [group.mean for group in effect.groups]
            axes.plot(range(len(means)), means, color="C1", linewidth=1)
        _label_values(axes, _group_labels(effect))
    share = 100 * effect.eta_squared
    by_chance = 100 * effect.eta_squared_by_chance
    axes.set_title(f"{name}: {share:.0f} % (by chance {by_chance:.0f} %)", fontsize="medium")
    axes.grid(alpha=0.3)


def _set_log_scale(axes: Axes) -> None:
    """Use a log scale with ticks written as plain numbers, such as 0.05."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    # Fewer ticks per decade on a longer axis, so that they do not overlap.
    if high / low < 30:
        ticks_per_decade: tuple[int, ...] = (1, 2, 5)
    elif high / low < 1000:
        ticks_per_decade = (1, 3)
    else:
        ticks_per_decade = (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=ticks_per_decade))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _label_values(axes: Axes, labels: Sequence[str]) -> None:
    """Label listed values at x = 0, 1, …; rotate the labels if they are long."""
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    if sum(len(label) for label in labels) > _ROTATE_LABELS_ABOVE:
        for text in axes.get_xticklabels():
            text.set(
                rotation=35, horizontalalignment="right", rotation_mode="anchor", fontsize="small"
            )


def _value_position(effect: SettingEffect) -> Callable[[str], float]:
    """Return a function from a value to its x position.

    A value from a range is its own position. A listed value has the index of its group.
    """
    if effect.from_range:
        return float
    positions = {}
    for index, group in enumerate(effect.groups):
        for value in group.values:
            positions[value] = float(index)
    return positions.__getitem__


def _uses_log_scale(effect: SettingEffect) -> bool:
    """Return True if a range's values are positive and span a factor of at least four."""
    low = float(effect.groups[0].values[0])
    high = float(effect.groups[-1].values[-1])
    return low > 0 and high / low >= 4


def _group_labels(effect: SettingEffect, max_length: int = _MAX_LABEL_LENGTH) -> list[str]:
    """Return a label for each group. Long labels are shortened as long as all stay different.

    First try to cut out the middle of long labels. If two labels become equal, show the part where
    the long labels begin to differ. If two are still equal, return all labels in full.
    """
    labels = [group.label for group in effect.groups]
    long_labels = [label for label in labels if len(label) > max_length]
    # Start three characters earlier, for context.
    start = max(0, len(commonprefix(long_labels)) - 3)  # noqa: RUF071, names, not paths
    end = start + max_length - 2
    half = max_length // 2
    without_middle = {}
    from_difference = {}
    for label in long_labels:
        without_middle[label] = f"{label[:half]}…{label[1 - half :]}"
        from_difference[label] = f"…{label[start:end]}…"
    for short_forms in (without_middle, from_difference):
        shortened = [short_forms.get(label, label) for label in labels]
        if len(set(shortened)) == len(set(labels)):
            return shortened
    return labels


def parallel_plot(comparison: Comparison, path: str | Path) -> Path | None:
    """Draw parallel coordinates: a line per finished trial, across all settings to its metric.

    The metric decides the line's color.

    Args:
        comparison: the sweep.
        path: file to write; its suffix decides the format.

    Returns:
        `path`, or None if fewer than three settings vary.
    """
    # Reversed, so that the setting that explains most is next to the metric on the right.
    effects = setting_effects(comparison)[::-1]
    if len(effects) < 3:
        return None

    # Heights of all trials on each axis, from 0 to 1. The best trials are drawn last, on top.
    trials = []
    for row in reversed(trials_with_metric(comparison)):
        if all(effect.setting in row.settings for effect in effects):
            trials.append(row)
    results = [row.metrics[comparison.metric] for row in trials]
    scale = Normalize(min(results), max(results))
    heights_by_axis = [_trial_heights(effect, trials) for effect in effects]
    heights_by_axis.append([float(scale(result)) for result in results])

    figure = Figure(figsize=(1.9 * (len(effects) + 1), 4.6), layout="constrained")
    axes = figure.subplots()

    # One line per trial.
    best_rows = comparison.best_group.rows if comparison.best_group else ()
    for index, row in enumerate(trials):
        is_best = row in best_rows
        axes.plot(
            [heights[index] for heights in heights_by_axis],
            color=colormaps["viridis"](scale(results[index])),
            linewidth=3.0 if is_best else 1.2,
            alpha=1.0 if is_best else 0.7,
        )

    # One vertical axis per setting, and one for the metric.
    for index, effect in enumerate(effects):
        _draw_vertical_axis(axes, index, _setting_ticks(effect))
    metric_ticks = []
    for height in (0.0, 0.25, 0.5, 0.75, 1.0):
        metric_ticks.append((height, f"{scale.inverse(height):.3g}"))
    _draw_vertical_axis(axes, len(effects), metric_ticks)
    names = short_names(effect.setting for effect in effects)
    metric_name = comparison.metric.replace("/", "/\n")
    axes.set_xticks(range(len(effects) + 1), [*names.values(), metric_name])
    axes.set(xlim=(-0.15, len(effects) + 0.35), ylim=(-0.06, 1.06), yticks=[])
    axes.set_title(
        "One line per trial, the best one thick; settings further right explain more",
        fontsize="medium",
    )
    axes.spines[:].set_visible(False)
    return save_figure(figure, path)


def _setting_ticks(effect: SettingEffect) -> list[tuple[float, str]]:
    """Return the height (0 to 1) and text of each tick on a setting's axis."""
    if effect.from_range:
        low = float(effect.groups[0].values[0])
        high = float(effect.groups[-1].values[-1])
        return [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
    labels = _group_labels(effect, _MAX_PARALLEL_LABEL_LENGTH)
    return [(index / (len(labels) - 1), label) for index, label in enumerate(labels)]


def _trial_heights(effect: SettingEffect, rows: Sequence[RunRow]) -> list[float]:
    """Return the height, from 0 to 1, at which each trial crosses a setting's axis.

    Trials with the same listed value are spread a little, so that no line hides another.
    """
    position = _value_position(effect)
    positions = [position(row.settings[effect.setting]) for row in rows]
    if effect.from_range:
        if _uses_log_scale(effect):
            positions = [math.log(x) for x in positions]
        low = min(positions)
        high = max(positions)
        return [(x - low) / (high - low) for x in positions]
    last = len(effect.groups) - 1
    heights = []
    for index, x in enumerate(positions):
        # Rank among the trials with this value, from 0 to less than 1.
        relative_rank = positions[:index].count(x) / positions.count(x)
        heights.append(x / last + 0.05 * (relative_rank - 0.5))
    return heights


def _draw_vertical_axis(axes: Axes, x: float, ticks: Sequence[tuple[float, str]]) -> None:
    """Draw a vertical axis at `x` with its ticks' texts."""
    # zorder 3 and 4: above the lines of the trials.
    axes.axvline(x, color="black", linewidth=0.8, zorder=3)
    text_box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0}
    for height, text in ticks:
        axes.text(
            x + 0.04,
            height,
            text,
            fontsize="small",
            verticalalignment="center",
            bbox=text_box,
            zorder=4,
        )

"""Plot accuracy over one setting: over a number, or over listed values such as prompt sets."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from beamclip.reporting.comparison import TEST_METRIC, VAL_METRIC, Comparison
from beamclip.reporting.figures import draw_reference, save_figure
from beamclip.reporting.groups import SEED, RunRow, TrialGroup
from beamclip.tracking.serialize import run_name, short_names

# Title of a panel -> MLflow key of its metric.
_NUMBER_PANELS = {"linear probe, val": VAL_METRIC, "linear probe, test": TEST_METRIC}
_VALUE_PANELS = {**_NUMBER_PANELS, "zero-shot, test": "zero_shot/test_top1"}
# The student's temperature τ_S, which sweeps/csm_temp.py varies.
_PREFERRED_X = "objective.student_temperature"
_REFERENCE_STYLES = {"untrained": ":", "teacher": "--"}
# With more curves than this, `value_plot` shows only their mean.
_MAX_CURVES = 8
# With more x values than this, matplotlib chooses the ticks.
_MAX_TICKS = 8

NumberCurve = dict[float, list[float]]
"""x -> metric of each seed."""
ValueCurve = dict[str, list[tuple[float, float | None]]]
"""Value of the setting -> (mean, half interval) of each group with that value."""


def number_plot(rows: Sequence[RunRow], path: str | Path) -> Path | None:
    """Draw val and test top-1 (%) of the finished trials over a number that varies.

    x is τ_S if it varies, else the number with the most values. Each combination of the other
    varied settings is a curve. Seeds are dots and lines join their means. References are horizontal
    lines.

    Args:
        rows: trials and reference runs.
        path: file to write; its suffix decides the format.

    Returns:
        `path`, or None if no number varies or nothing is measured yet.
    """
    metrics = set(_NUMBER_PANELS.values())
    trials = []
    for row in rows:
        if row.kind == "trial" and row.status == "FINISHED" and metrics & set(row.metrics):
            trials.append(row)
    references = [row for row in rows if row.kind == "reference"]
    x_key = _choose_x(trials)
    if x_key is None:
        return None
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    xs = sorted({float(row.settings[x_key]) for row in trials})
    for axes, (title, metric) in zip(panels, _NUMBER_PANELS.items(), strict=True):
        for label, curve in _number_curves(trials, x_key, metric).items():
            _draw_number_curve(axes, label, curve)
        for row in references:
            _draw_number_reference(axes, row, metric)
        axes.grid(alpha=0.3)
        axes.set(title=title, xlabel=short_names([x_key])[x_key])
        _set_x_scale(axes, xs)
    panels[0].set_ylabel("top-1 (%)")
    handles, labels = _shared_legend(panels)
    figure.legend(handles, labels, loc="outside right upper", fontsize="small")
    return save_figure(figure, path)


def _choose_x(rows: Sequence[RunRow]) -> str | None:
    """Return the key of the setting on the x axis, which must be a number in all rows, or None."""
    candidates = {}
    for key, values in _varied_values(rows).items():
        in_all_rows = all(key in row.settings for row in rows)
        if key != SEED and in_all_rows and all(_is_float(value) for value in values):
            candidates[key] = len(values)
    if _PREFERRED_X in candidates:
        return _PREFERRED_X
    return max(candidates, key=candidates.__getitem__, default=None)


def _varied_values(rows: Sequence[RunRow]) -> dict[str, set[str]]:
    """Return the values of each setting that differs between the rows."""
    values_by_key: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for key, value in row.settings.items():
            values_by_key[key].add(value)
    return {key: values for key, values in values_by_key.items() if len(values) > 1}


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number_curves(rows: Sequence[RunRow], x_key: str, metric: str) -> dict[str, NumberCurve]:
    """Return label and curve of each combination of the other varied settings, except the seed."""
    other_keys = [key for key in _varied_values(rows) if key not in (x_key, SEED)]
    names = short_names(other_keys)
    curves: dict[str, NumberCurve] = {}
    for row in rows:
        if metric not in row.metrics:
            continue
        settings = [f"{names[key]} = {row.settings.get(key, '-')}" for key in other_keys]
        label = ", ".join(settings) or "trials"
        curve = curves.setdefault(label, {})
        curve.setdefault(float(row.settings[x_key]), []).append(row.metrics[metric])
    return dict(sorted(curves.items()))


def _draw_number_curve(axes: Axes, label: str, curve: NumberCurve) -> None:
    """Draw a line through the means over seeds, and a dot for each seed."""
    xs = sorted(curve)
    means = [sum(curve[x]) / len(curve[x]) for x in xs]
    (line,) = axes.plot(xs, means, marker="o", label=label)
    for x in xs:
        axes.plot([x] * len(curve[x]), curve[x], ".", color=line.get_color(), alpha=0.4)


def _draw_number_reference(axes: Axes, row: RunRow, metric: str) -> None:
    """Draw a reference's linear probe accuracy or, if it has none, its zero-shot accuracy.

    The teacher is not probed; the zero-shot accuracy is of the same split as `metric`.
    """
    linestyle = _REFERENCE_STYLES.get(row.method, "-.")
    zero_shot = metric.replace("linear_probe", "zero_shot")
    if metric in row.metrics:
        draw_reference(axes, row, metric, linestyle)
    elif zero_shot in row.metrics:
        draw_reference(axes, row, zero_shot, linestyle, note=" (zero-shot)")


def _set_x_scale(axes: Axes, xs: list[float]) -> None:
    """Use a log scale if the values span a factor of at least four. Label each of a few values."""
    if xs[0] > 0 and xs[-1] / xs[0] >= 4:
        axes.set_xscale("log")
    if len(xs) <= _MAX_TICKS:
        axes.set_xticks(xs, [f"{x:g}" for x in xs])
        axes.set_xticks([], minor=True)


def _shared_legend(panels: Sequence[Axes]) -> tuple[list[Artist], list[str]]:
    """Return handles and labels of all panels, each label once."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    return list(entries.values()), list(entries)


def value_plot(comparison: Comparison, key: str, path: str | Path) -> Path | None:
    """Draw three accuracies (%) of the finished groups over the values of one setting.

    Values are sorted by their best group. Each combination of the other settings has its own color;
    with more than eight combinations only their mean is drawn. Error bars are 95 % intervals over
    seeds, if there are several.

    Args:
        comparison: the sweep.
        key: dotted key of a setting with listed values, such as "anchors.prompt_set" or "variant".
        path: file to write; its suffix decides the format.

    Returns:
        `path`, or None if fewer than two values of `key` are finished.
    """
    groups = [group for group in comparison.groups if group.finished and key in group.settings]
    # Groups are sorted best first, and so are their values.
    values = list(dict.fromkeys(group.settings[key] for group in groups))
    if len(values) < 2:
        return None
    # Labels are rotated, so long ones need height.
    longest_value = max(len(value) for value in values)
    figure = Figure(figsize=(11.0, 3.6 + 0.04 * longest_value), layout="constrained")
    panels = figure.subplots(1, len(_VALUE_PANELS), sharey=False)
    for axes, (title, metric) in zip(panels, _VALUE_PANELS.items(), strict=True):
        curves = _value_curves(groups, key, metric)
        # The values have no order. Dotted lines only show which dots belong together.
        line_format = "o" if len(curves) == 1 else "o:"
        for label, curve in curves.items():
            _draw_value_curve(axes, label, curve, values, line_format)
        axes.set_title(title)
        axes.set_xticks(
            range(len(values)),
            values,
            rotation=35,
            ha="right",
            rotation_mode="anchor",
            fontsize="small",
        )
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("top-1 (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside right upper", fontsize="small")
    figure.suptitle(f"by {short_names([key])[key]}", fontsize="medium")
    return save_figure(figure, path)


def _value_curves(groups: Sequence[TrialGroup], key: str, metric: str) -> dict[str, ValueCurve]:
    """Return label and curve of each combination of the other settings, or only their mean."""
    curves: dict[str, ValueCurve] = {}
    for group in groups:
        mean = group.mean(metric)
        if mean is None:
            continue
        others = {other: value for other, value in group.settings.items() if other != key}
        curve = curves.setdefault(run_name(others), {})
        curve.setdefault(group.settings[key], []).append((mean, group.half_interval(metric)))
    if len(curves) <= _MAX_CURVES:
        return curves
    # `_draw_value_curve` averages the points of a value. The mean of several groups has no interval
    # over seeds.
    all_points: ValueCurve = {}
    for curve in curves.values():
        for value, points in curve.items():
            all_points.setdefault(value, []).extend((mean, None) for mean, _ in points)
    return {"mean of all": all_points}


def _draw_value_curve(
    axes: Axes, label: str, curve: ValueCurve, values: Sequence[str], line_format: str
) -> None:
    """Draw a curve at the positions of its values in `values`, with error bars if it has any."""
    means = [fmean(mean for mean, _ in points) for points in curve.values()]
    half_intervals = [points[0][1] or 0.0 for points in curve.values()]
    axes.errorbar(
        [values.index(value) for value in curve],
        means,
        half_intervals if any(half_intervals) else None,
        fmt=line_format,
        label=label,
        capsize=3,
        linewidth=1,
    )

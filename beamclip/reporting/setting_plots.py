"""Accuracy against what was swept. Matplotlib's figure objects only: no pyplot, so no global state and no display."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from beamclip.reporting.groups import SEED, Row
from beamclip.tracking.serialize import short_names

_PANELS = {
    "linear probe, val": "linear_probe/val_top1",
    "linear probe, test": "linear_probe/test_top1",
}
_FIRST_CHOICE = "objective.student_temperature"
_DASHES = {"untrained": ":", "teacher": "--"}
Line = dict[float, list[float]]


def temperature_plot(rows: Sequence[Row], path: str | Path) -> Path | None:
    """Draw val and test top-1 (%) of the finished trials in `rows` over a swept number; the format follows the path's ending.

    x is τ_S where it varies, else the number with the most values; each combination of the other varied keys is a line.
    Seeds are averaged and drawn as dots, reference rows are level lines.
    Returns `path`, or None where no number varies or nothing is measured yet.
    """
    measured = set(_PANELS.values())
    trials = [
        row
        for row in rows
        if row.kind == "trial" and row.status == "FINISHED" and measured & set(row.metrics)
    ]
    key = _x_key(trials)
    if key is None:
        return None
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (title, metric) in zip(panels, _PANELS.items(), strict=True):
        _draw(
            axes,
            _lines(trials, key, metric),
            [row for row in rows if row.kind == "reference"],
            metric,
        )
        axes.set(title=title, xlabel=short_names([key])[key])
        _scale(axes, sorted({float(row.values[key]) for row in trials}))
    panels[0].set_ylabel("top-1 (%)")
    handles, labels = _legend(panels)
    figure.legend(handles, labels, loc="outside right upper", fontsize="small")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return Path(path)


def _legend(panels: Sequence[Axes]) -> tuple[list[Artist], list[str]]:
    """Every name once, though both panels draw it."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    return list(entries.values()), list(entries)


def _varied(rows: Sequence[Row]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for key, value in row.values.items():
            found[key].add(value)
    return {key: values for key, values in found.items() if len(values) > 1}


def _x_key(rows: Sequence[Row]) -> str | None:
    numeric = {
        key: values
        for key, values in _varied(rows).items()
        if key != SEED and all(map(_is_number, values))
    }
    numeric = {
        key: values for key, values in numeric.items() if all(key in row.values for row in rows)
    }
    return max(numeric, key=lambda key: (key == _FIRST_CHOICE, len(numeric[key])), default=None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _lines(rows: Sequence[Row], x_key: str, metric: str) -> dict[str, Line]:
    """Label -> x -> one value a seed."""
    others = [key for key in _varied(rows) if key not in (x_key, SEED)]
    names = short_names(others)
    lines: dict[str, Line] = defaultdict(lambda: defaultdict(list))
    for row in (row for row in rows if metric in row.metrics):
        label = (
            ", ".join(f"{names[key]} = {row.values.get(key, '-')}" for key in others) or "trials"
        )
        lines[label][float(row.values[x_key])].append(row.metrics[metric])
    return dict(sorted(lines.items()))


def _draw(axes: Axes, lines: dict[str, Line], references: Sequence[Row], metric: str) -> None:
    for label, line in lines.items():
        xs = sorted(line)
        drawn = axes.plot(xs, [sum(line[x]) / len(line[x]) for x in xs], marker="o", label=label)[0]
        for x in xs:
            axes.plot([x] * len(line[x]), line[x], ".", color=drawn.get_color(), alpha=0.4)
    for row in references:
        keys = (
            metric,
            metric.replace("linear_probe", "zero_shot"),
        )  # of the same split, or not at all
        if shown := next((key for key in keys if key in row.metrics), None):
            note = (
                "" if shown.startswith("linear") else f" ({shown.split('/')[0].replace('_', '-')})"
            )
            style = _DASHES.get(row.method, "-.")
            axes.axhline(
                row.metrics[shown], color="grey", linestyle=style, label=f"{row.method}{note}"
            )
    axes.grid(alpha=0.3)


def _scale(axes: Axes, xs: list[float]) -> None:
    """Logarithmic where the values span a factor of four; with few values, each gets its own tick."""
    if xs[0] > 0 and xs[-1] / xs[0] >= 4:
        axes.set_xscale("log")
    if len(xs) <= 8:
        axes.set_xticks(xs, [f"{x:g}" for x in xs])
        axes.set_xticks([], minor=True)

"""Accuracy over the listed values of one setting: prompt sets, variants. No pyplot, as in `plots`."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

from beamclip.reporting.comparison import Comparison
from beamclip.reporting.groups import Cell
from beamclip.tracking.serialize import run_name, short_names

_PANELS = {
    "linear probe, val": "linear_probe/val_top1",
    "linear probe, test": "linear_probe/test_top1",
    "zero-shot, test": "zero_shot/test_top1",
}
_MOST_LINES = 8


def value_plot(comparison: Comparison, key: str, path: str | Path) -> Path | None:
    """Draw three accuracies (%) of the finished cells over the values of `key`, best first; each combination of the others has its colour.

    Bars are 95 % intervals over seeds, where there are several. With more than eight lines, their mean is drawn alone.

    Returns `path`, or None where fewer than two values of `key` are finished.
    """
    cells = [cell for cell in comparison.cells if cell.finished and key in cell.values]
    values = list(dict.fromkeys(cell.values[key] for cell in cells))  # cells come best first
    if len(values) < 2:
        return None
    figure = Figure(figsize=(11.0, 3.6 + 0.04 * max(map(len, values))), layout="constrained")
    panels = figure.subplots(1, len(_PANELS), sharey=False)
    for axes, (title, metric) in zip(panels, _PANELS.items(), strict=True):
        lines = _lines(cells, key, metric)
        marks = (
            "o" if len(lines) == 1 else "o:"
        )  # dots that belong together are joined; the values themselves have no order
        for label, line in lines.items():
            places = [values.index(value) for value in line]
            heights, halves = (
                [fmean(mean for mean, _ in line[value]) for value in line],
                [line[value][0][1] or 0.0 for value in line],
            )
            axes.errorbar(
                places,
                heights,
                halves if any(halves) else None,
                fmt=marks,
                label=label,
                capsize=3,
                linewidth=1,
            )
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
    if len(panels[0].get_legend_handles_labels()[1]) > 1:
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small"
        )
    figure.suptitle(f"by {short_names([key])[key]}", fontsize="medium")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return Path(path)


Line = dict[str, list[tuple[float, float | None]]]
"""Value of the setting -> mean and half interval of each cell there."""


def _lines(cells: Sequence[Cell], key: str, metric: str) -> dict[str, Line]:
    lines: dict[str, Line] = {}
    for cell in cells:
        mean = cell.mean(metric)
        if mean is not None:
            label = run_name({other: value for other, value in cell.values.items() if other != key})
            lines.setdefault(label, {}).setdefault(cell.values[key], []).append(
                (mean, cell.half_interval(metric))
            )
    if len(lines) <= _MOST_LINES:
        return lines
    together: Line = {}
    for line in lines.values():
        for value, found in line.items():
            together.setdefault(value, []).extend((mean, None) for mean, _ in found)
    return {"mean of all": together}

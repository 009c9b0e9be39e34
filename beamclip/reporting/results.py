"""What was measured: the tables, the curves, what mattered, and what it cost."""

from collections.abc import Callable
from pathlib import Path

from beamclip.reporting.comparison import Comparison
from beamclip.reporting.cost_plot import cost_plot
from beamclip.reporting.importance import effect_rows, effects, effects_line
from beamclip.reporting.importance_plots import effects_plot, parallel_plot
from beamclip.reporting.page import Figure, Section
from beamclip.reporting.setting_plots import temperature_plot
from beamclip.reporting.tables import Line, Sheet, duration, measured_sheet, notes, published_sheet
from beamclip.reporting.value_plot import value_plot

_CURVES = {"anchors.prompt_set": "Accuracy by prompt set", "variant": "Accuracy by variant"}
_COSTS = ("cost/device_seconds", "cost/images_seen", "cost/teacher_images")


def tables(comparison: Comparison) -> Section:
    """Trials and references in one table, published results in another."""
    sheets = [measured_sheet(comparison)] + (
        [published_sheet(comparison.published)] if comparison.published else []
    )
    missing = () if comparison.best_cell else ("No trial has finished with a result yet.",)
    return Section("Results", tuple(notes(comparison)), tuple(sheets), missing=missing)


def curves(comparison: Comparison, folder: Path) -> Section:
    """Accuracy over temperatures (or whichever number varies), prompt sets and variants."""
    path = temperature_plot(comparison.measured, folder / "accuracy.png")
    figures = (
        [
            Figure(
                path, "Top-1 over the number that varies; dots are trials, lines means over seeds."
            )
        ]
        if path
        else []
    )
    for key, caption in _CURVES.items():
        drawn = (
            value_plot(comparison, key, folder / f"{key.split('.')[-1]}.png")
            if key in comparison.settings
            else None
        )
        figures += (
            [
                Figure(
                    drawn,
                    f"{caption}; bars are 95 % intervals over seeds, where there are several.",
                )
            ]
            if drawn
            else []
        )
    return _drawn(
        "Curves",
        figures,
        "No temperature, prompt set or other setting has two finished values here.",
    )


def what_mattered(comparison: Comparison, folder: Path) -> Section:
    """How much of the variance each setting explains alone."""
    found = effects(comparison)
    if not found:
        return Section(
            "What mattered",
            missing=(
                "Fewer than two settings vary among the finished trials, so there is nothing to weigh.",
            ),
        )
    plots: dict[str, Callable[[Comparison, Path], Path | None]] = {
        "effects": effects_plot,
        "parallel": parallel_plot,
    }
    figures = [
        Figure(path, "")
        for name, plot in plots.items()
        if (path := plot(comparison, folder / f"{name}.png"))
    ]
    rows = effect_rows(found)
    sheet = Sheet(
        "", tuple(rows[0]), tuple(Line("trial", tuple(map(str, row.values()))) for row in rows), 1
    )
    return Section("What mattered", (effects_line(comparison) or "",), (sheet,), tuple(figures))


def accuracy_against_cost(comparison: Comparison, folder: Path) -> Section:
    """The picture with the Pareto front."""
    path = cost_plot(comparison, folder / "accuracy_cost.png")
    text = "On the front are the settings that nothing cheaper beats; costs are on a logarithm, and means over seeds."
    otherwise = "Fewer than two finished settings have different costs on record."
    return _drawn("Accuracy against cost", [Figure(path, text)] if path else [], otherwise)


def _drawn(title: str, figures: list[Figure], otherwise: str) -> Section:
    return Section(title, figures=tuple(figures), missing=() if figures else (otherwise,))


def costs(comparison: Comparison) -> Section:
    """What each cell took, and the whole sweep."""
    lines = []
    for cell in comparison.cells:
        means = [cell.mean(key) for key in (*_COSTS, "train/images_per_second")]
        wall = [row.seconds for row in cell.rows if row.seconds is not None]
        shown = [
            duration(means[0]),
            *("-" if mean is None else f"{mean:,.0f}" for mean in means[1:]),
        ]
        lines.append(
            Line(
                "trial",
                (
                    cell.name,
                    str(len(cell.rows)),
                    duration(sum(wall) / len(wall) if wall else None),
                    *shown,
                ),
            )
        )
    head = (
        "settings",
        "trials",
        "start to end",
        "device time",
        "images seen",
        "teacher images",
        "img/s",
    )
    sheet = Sheet("a trial, on average", head, tuple(lines), 1)
    lost = [key for key in _COSTS if not any(key in row.metrics for row in comparison.trials)]
    text = "Teacher images are those that a trial would need if it were alone; stores are made once for all. Start to end counts waiting, "
    text += "probing and whatever time the sweep stood still before it was resumed; device time is training alone."
    missing = (
        (f"The trials did not log {', '.join(lost)}; an older version of beamclip did not.",)
        if lost and comparison.trials
        else ()
    )
    return Section("Costs", (*_totals(comparison), text), (sheet,), missing=missing)


def _totals(comparison: Comparison) -> list[str]:
    own = (
        row.metrics.get("cost/device_seconds", 0.0)
        - row.metrics.get("cost/start_device_seconds", 0.0)
        for row in comparison.trials
    )
    spent = sum(own)  # a start is a trial of its own, or was paid for by another sweep
    said = (
        [f"All {len(comparison.trials)} trials together took {duration(spent)} of device time."]
        if spent
        else []
    )
    passes = [
        row.metrics["teacher/images_encoded"]
        for row in comparison.references
        if "teacher/images_encoded" in row.metrics
    ]
    if passes:
        said.append(
            f"Before them, teachers encoded {max(passes):,.0f} images for stores that did not exist yet, and all trials read the stores."
        )
    return said

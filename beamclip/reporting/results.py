"""Build the report's sections on results: tables, curves, importance of settings, and costs."""

from pathlib import Path

from beamclip.reporting.comparison import DEVICE_SECONDS, IMAGES_SEEN, Comparison
from beamclip.reporting.cost_plot import cost_plot
from beamclip.reporting.durations import format_duration
from beamclip.reporting.importance import effects_summary, effects_table, setting_effects
from beamclip.reporting.importance_plots import effects_plot, parallel_plot
from beamclip.reporting.page import PageFigure, Section
from beamclip.reporting.setting_plots import number_plot, value_plot
from beamclip.reporting.tables import (
    MISSING,
    ReportTable,
    TableRow,
    duration_cell,
    mean_wall_seconds,
    measured_table,
    published_table,
    table_notes,
)

_VALUE_PLOTS = {"anchors.prompt_set": "Accuracy by prompt set", "variant": "Accuracy by variant"}
"""Dotted key of a setting with listed values -> title of its plot."""
_IMAGE_COSTS = (IMAGES_SEEN, "cost/teacher_images")


def results_section(comparison: Comparison) -> Section:
    """Show the table of trials and references, and the table of published results."""
    tables = [measured_table(comparison)]
    if comparison.published:
        tables.append(published_table(comparison.published))
    missing = () if comparison.best_group else ("No trial has finished with a result yet.",)
    notes = tuple(table_notes(comparison))
    return Section("Results", notes, tables=tuple(tables), missing=missing)


def curves_section(comparison: Comparison, folder: Path) -> Section:
    """Draw accuracy over temperatures (or another number), prompt sets and variants.

    Args:
        comparison: the sweep.
        folder: folder to write the figures to.
    """
    figures = []
    path = number_plot(comparison.measured, folder / "accuracy.png")
    if path:
        caption = "Top-1 over the number that varies; dots are trials, lines are means over seeds."
        figures.append(PageFigure(path, caption))
    for key, title in _VALUE_PLOTS.items():
        if key not in comparison.varied_settings:
            continue
        path = value_plot(comparison, key, folder / f"{key.split('.')[-1]}.png")
        if path:
            caption = f"{title}; bars are 95 % intervals over seeds, if there are several."
            figures.append(PageFigure(path, caption))
    if figures:
        return Section("Curves", figures=tuple(figures))
    missing = "No temperature, prompt set or other setting has two finished values here."
    return Section("Curves", missing=(missing,))


def importance_section(comparison: Comparison, folder: Path) -> Section:
    """Show how much of the metric's variance each setting explains alone.

    Args:
        comparison: the sweep.
        folder: folder to write the figures to.
    """
    title = "Share of the variance explained"
    effects = setting_effects(comparison)
    if not effects:
        missing = "Fewer than two settings vary among the finished trials."
        return Section(title, missing=(missing,))
    paths = [
        effects_plot(comparison, folder / "effects.png"),
        parallel_plot(comparison, folder / "parallel.png"),
    ]
    figures = tuple(PageFigure(path, "") for path in paths if path)
    effect_rows = effects_table(effects)
    table_rows = []
    for row in effect_rows:
        cells = tuple(str(value) for value in row.values())
        table_rows.append(TableRow("trial", cells))
    columns = tuple(effect_rows[0])
    table = ReportTable("", columns, tuple(table_rows), 1)
    summary = effects_summary(comparison) or ""
    return Section(title, (summary,), tables=(table,), figures=figures)


def accuracy_cost_section(comparison: Comparison, folder: Path) -> Section:
    """Draw accuracy over cost with the Pareto front.

    Args:
        comparison: the sweep.
        folder: folder to write the figure to.
    """
    title = "Accuracy against cost"
    path = cost_plot(comparison, folder / "accuracy_cost.png")
    if path is None:
        missing = "Fewer than two finished settings with different costs were recorded."
        return Section(title, missing=(missing,))
    caption = (
        "The front has the settings that nothing cheaper beats. "
        "Costs are means over seeds, on a log scale."
    )
    return Section(title, figures=(PageFigure(path, caption),))


def costs_section(comparison: Comparison) -> Section:
    """Show the time and images that each group of trials took, and the whole sweep."""
    rows = []
    for group in comparison.groups:
        counts = []
        for key in (*_IMAGE_COSTS, "train/images_per_second"):
            mean = group.mean(key)
            counts.append(MISSING if mean is None else f"{mean:,.0f}")
        cells = (
            group.name,
            str(len(group.rows)),
            duration_cell(mean_wall_seconds(group)),
            duration_cell(group.mean(DEVICE_SECONDS)),
            *counts,
        )
        rows.append(TableRow("trial", cells))
    columns = (
        "settings",
        "trials",
        "start to end",
        "device time",
        "images seen",
        "teacher images",
        "img/s",
    )
    table = ReportTable("mean of a trial", columns, tuple(rows), 1)
    explanation = (
        "Teacher images: the number that a teacher would have to encode for this trial alone. In "
        "the sweep, stores are built once for all trials. Start to end includes waiting, probing "
        "and the time between an interruption of the sweep and its resume; device time is "
        "training alone."
    )

    # A missing cost has a dash in the table. Say why if no trial logged it.
    not_logged = []
    for key in (DEVICE_SECONDS, *_IMAGE_COSTS):
        if not any(key in row.metrics for row in comparison.trials):
            not_logged.append(key)
    missing = []
    if not_logged and comparison.trials:
        keys = ", ".join(not_logged)
        missing.append(f"The trials did not log {keys}; older versions of beamclip did not.")
    text = (*_total_costs(comparison), explanation)
    return Section("Costs", text, tables=(table,), missing=tuple(missing))


def _total_costs(comparison: Comparison) -> list[str]:
    """Return sentences on the device time of all trials and the images the teachers encoded."""
    device_seconds = 0.0
    for row in comparison.trials:
        # If a trial starts from another trained student, its cost includes that student's. That
        # student is counted as a trial of this sweep, or was trained by another sweep.
        cost = row.metrics.get(DEVICE_SECONDS, 0.0)
        start_cost = row.metrics.get("cost/start_device_seconds", 0.0)
        device_seconds += cost - start_cost
    sentences = []
    if device_seconds:
        total = format_duration(device_seconds)
        sentences.append(
            f"All {len(comparison.trials)} trials together took {total} of device time."
        )
    # Each teacher run logs the number for all teachers of the sweep, so they are not summed.
    encoded = []
    for row in comparison.references:
        if "teacher/images_encoded" in row.metrics:
            encoded.append(row.metrics["teacher/images_encoded"])
    if encoded:
        sentences.append(
            f"Before the trials, teachers encoded {max(encoded):,.0f} images for stores that did "
            "not exist yet; all trials read the stores."
        )
    return sentences

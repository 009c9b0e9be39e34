"""Write a sweep's own MLflow run: its start, the results of its preparation, and its summary."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from beamclip.config import UserError
from beamclip.config.provenance import command_line, provenance_tags, without_passwords
from beamclip.stores.paths import artifact_root, tracking_uri
from beamclip.stores.sweep_record import SweepRecord
from beamclip.sweep.asset_facts import AssetFacts
from beamclip.sweep.next_steps import next_commands
from beamclip.sweep.progress import ProgressBars
from beamclip.sweep.reference_runs import write_references

if TYPE_CHECKING:
    from beamclip.reporting.comparison import Comparison
    from beamclip.tracking import SweepTracker

# Only so many anchor sets get a heat map and a list of nearest pairs. The table has all of them.
_MAX_HEAT_MAPS = 12
_ANCHOR_COLUMNS = (
    "prompt_set",
    "anchors",
    "prompts",
    "prompts_per_class",
    "bare",
    "shortened",
    "duplicates",
    "near",
    "hash",
)


def open_tracker(record: SweepRecord, resume: bool) -> "SweepTracker":
    """Open the sweep's tracker, a context manager that sets the final status of its run.

    Raises:
        UserError: the tracking server can't be used.
    """
    from beamclip.tracking import SweepTracker, mlflow_errors_as_user_error

    with mlflow_errors_as_user_error(
        "the sweep's run can't be written",
        "fix the tracking server, or choose another with --tracking-uri",
    ):
        return SweepTracker.open(
            tracking_uri(record.base),
            artifact_root(record.base),
            record.sweep,
            record.base,
            record.sweep_id,
            resume=resume,
            tags=provenance_tags(),
        )


def write_start(tracker: "SweepTracker", record: SweepRecord) -> None:
    """Write published results as runs, and the sweep's command and folder as tags.

    Raises:
        UserError: the tracking server can't be written.
    """
    from beamclip.tracking import mlflow_errors_as_user_error, write_published

    with mlflow_errors_as_user_error(
        "the sweep's run can't be written", "fix the tracking server and start again"
    ):
        write_published(tracker.client, tracker.experiment_id)
        tags = {
            "beamclip.command": command_line(),
            "beamclip.folder": without_passwords(record.folder),
        }
        # A resumed sweep keeps the command that started it.
        tracker.set_missing_tags(tags)


def write_preparation(tracker: "SweepTracker", record: SweepRecord) -> None:
    """Write the reference runs and the anchors, after all stores are built.

    Raises:
        UserError: the tracking server can't be written.
    """
    from beamclip.tracking import mlflow_errors_as_user_error

    with mlflow_errors_as_user_error("references and anchors can't be written"):
        write_references(tracker, record)
        write_anchors(tracker, record)


def write_anchors(tracker: "SweepTracker", record: SweepRecord) -> None:
    """Write the anchor sets that students match: a table of all, and details of the first twelve.

    Artifacts: `anchors.csv`; `heat_map.png` and `nearest_pairs.csv` in `anchors/HASH/`.
    """
    # Trials that differ in other settings have the same anchor set.
    by_hash: dict[str, AssetFacts] = {}
    for text in record.assets.values():
        facts = AssetFacts(text)
        by_hash[facts.anchors["hash"]] = facts
    tracker.log_table([_anchors_row(facts) for facts in by_hash.values()], "anchors.csv")
    for facts in list(by_hash.values())[:_MAX_HEAT_MAPS]:
        _write_anchor_set(tracker, facts)


def _anchors_row(facts: AssetFacts) -> dict[str, Any]:
    row: dict[str, Any] = {"teacher": facts.teacher}
    row |= {name: facts.anchors[name] for name in _ANCHOR_COLUMNS}
    fewest, most = facts.anchors["prompts_per_class"]
    row["prompts_per_class"] = str(fewest) if fewest == most else f"{fewest} to {most}"
    row["teacher_zero_shot_val_top1"] = round(facts.zero_shot_val_top1, 2)
    return row


def _write_anchor_set(tracker: "SweepTracker", facts: AssetFacts) -> None:
    import numpy as np

    from beamclip.anchors.figures import heat_map
    from beamclip.stores import read_json

    summary = facts.anchors
    store = Path(facts.anchors_folder)
    manifest: Mapping[str, Any] = read_json(store / "manifest.json") or {}
    title = f"{facts.teacher}, {summary['prompt_set']}: cosines of anchors"
    figure = heat_map(np.load(store / "anchors.npy"), manifest.get("names", []), title)
    folder = f"anchors/{summary['hash']}"
    tracker.log_figure(figure, f"{folder}/heat_map.png")
    pairs = [
        {"class": name, "other class": other_name, "cosine": cosine}
        for name, other_name, cosine in summary["nearest"]
    ]
    tracker.log_table(pairs, f"{folder}/nearest_pairs.csv")


def write_summary(tracker: "SweepTracker", record: SweepRecord, bars: ProgressBars) -> bool:
    """Write plots and the effects of settings to the sweep's run. Only warn if that fails.

    Returns:
        True if at least one trial has a result.

    Raises:
        UserError: the trials' results can't be read.
    """
    from beamclip.reporting.comparison import compare
    from beamclip.tracking import mlflow_errors_as_user_error

    with mlflow_errors_as_user_error("the results of the trials can't be read"):
        comparison = compare(tracking_uri(record.base), record.sweep.name, record.sweep_id)
    try:
        with mlflow_errors_as_user_error(
            "plots and effects can't be written", "beamclip report draws them again"
        ):
            _write_plots(tracker, comparison)
    except UserError as error:
        bars.write(f"beamclip: WARNING: {error}")
    return comparison.best_group is not None


def _write_plots(tracker: "SweepTracker", comparison: "Comparison") -> None:
    from beamclip.reporting.cost_plot import cost_plot
    from beamclip.reporting.importance import effects_table, setting_effects
    from beamclip.reporting.importance_plots import effects_plot, parallel_plot
    from beamclip.reporting.setting_plots import number_plot

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Each is None if there is nothing to draw.
        plots = [
            number_plot(comparison.measured, folder / "accuracy.png"),
            effects_plot(comparison, folder / "effects.png"),
            parallel_plot(comparison, folder / "parallel.png"),
            cost_plot(comparison, folder / "accuracy_cost.png"),
        ]
        for plot in plots:
            if plot is not None:
                tracker.client.log_artifact(tracker.run_id, str(plot))
    if effects := setting_effects(comparison):
        tracker.log_table(effects_table(effects), "effects.csv")


def print_comparison(record: SweepRecord) -> None:
    """Print the tables of a sweep, and the commands to look at it more closely."""
    from beamclip.reporting.comparison import compare
    from beamclip.reporting.tables import render

    uri = tracking_uri(record.base)
    name = record.sweep.name
    comparison = compare(uri, name, record.sweep_id)
    render(comparison, Console())
    best = comparison.best.run_id if comparison.best else None
    # The commands show the latest sweep of a name unless they are given an id.
    is_latest = compare(uri, name).sweep_id == record.sweep_id
    sweep_id = None if is_latest else record.sweep_id
    print(next_commands(name, record.base, best, sweep_id))

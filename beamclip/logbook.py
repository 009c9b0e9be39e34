"""What a sweep writes into its tracker beside its trials: the run it is, what its preparation found, how it compares."""

import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from beamclip.anchor_log import log_anchors
from beamclip.config import UserError
from beamclip.console import Bars
from beamclip.next_steps import next_lines
from beamclip.provenance import command_line, provenance_tags, without_passwords
from beamclip.records import SweepRecord
from beamclip.references import write_references
from beamclip.storage import artifact_root, tracking_uri


def open_tracker(record: SweepRecord, resume: bool) -> Any:
    """The sweep's tracker: a context manager that ends its run with a true status.

    Raises:
        UserError: the tracking server can't be used.
    """
    from beamclip.tracking import SweepTracker, told

    uri, root = tracking_uri(record.base), artifact_root(record.base)
    with told("the sweep's run can't be written", "mend the tracking server, or choose another with --tracking-uri"):
        return SweepTracker.open(uri, root, record.sweep, record.base, record.sweep_id, resume, provenance_tags())


def write_beginning(tracker: Any, record: SweepRecord) -> None:
    """What was published, and how this sweep was called.

    Raises:
        UserError: it can't be written.
    """
    from beamclip.tracking import told, write_published

    with told("the sweep's run can't be written", "mend the tracking server and begin again"):
        write_published(tracker.client, tracker.experiment_id)
        folder = without_passwords(record.folder)
        tracker.tag_once({"beamclip.command": command_line(), "beamclip.folder": folder})  # resumed: as it was started


def write_found(tracker: Any, record: SweepRecord, bars: Bars) -> None:
    """What the preparation found out about teacher, untrained student and anchors.

    Raises:
        UserError: it can't be written.
    """
    from beamclip.tracking import told

    with told("references and anchors can't be written"):
        write_references(tracker, record, bars.say)
        log_anchors(tracker, record)


def write_summary(tracker: Any, record: SweepRecord, bars: Bars) -> bool:
    """Plots and effects, without which a sweep has ended all the same. Returns whether any trial has a result.

    Raises:
        UserError: what the trials have written can't be read.
    """
    from beamclip.tracking import compare, told

    with told("what the trials wrote can't be read"):
        comparison = compare(tracking_uri(record.base), record.sweep.name, record.sweep_id)
    try:
        with told("plots and effects can't be written", "beamclip report draws them again"):
            _log_summary(tracker, comparison)
    except UserError as error:
        bars.say(f"beamclip: WARNING: {error}")
    return comparison.best_cell is not None


def _log_summary(tracker: Any, comparison: Any) -> None:
    from beamclip.tracking import cost_plot, effect_rows, effects, effects_plot, parallel_plot, temperature_plot

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plots = [temperature_plot(comparison.measured, folder / "accuracy.png")]
        plots += [effects_plot(comparison, folder / "effects.png"), parallel_plot(comparison, folder / "parallel.png")]
        plots.append(cost_plot(comparison, folder / "accuracy_cost.png"))
        for plot in filter(None, plots):
            tracker.client.log_artifact(tracker.run_id, str(plot))
    if found := effects(comparison):
        tracker.log_table(effect_rows(found), "effects.csv")


def print_comparison(record: SweepRecord) -> None:
    """The table, and what to type next."""
    from beamclip.tracking import compare, render

    uri, name, own = tracking_uri(record.base), record.sweep.name, record.sweep_id
    comparison = compare(uri, name, own)
    render(comparison, Console())
    best, latest = comparison.best.run_id if comparison.best else None, compare(uri, name).sweep_id
    print(next_lines(name, record.base, best, None if own == latest else own))

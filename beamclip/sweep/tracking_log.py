"""What a sweep writes into its tracker beside its trials: the run it is, what its preparation found, how it compares."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from beamclip.config import UserError
from beamclip.config.provenance import command_line, provenance_tags, without_passwords
from beamclip.stores.paths import artifact_root, tracking_uri
from beamclip.stores.sweep_record import SweepRecord
from beamclip.sweep.next_steps import next_lines
from beamclip.sweep.progress import ProgressBars
from beamclip.sweep.reference_runs import write_references

# The anchors of a sweep, kept with its parent run: a table of all banks, and a heat map and the nearest pairs of each.


_PICTURES = 12  # banks that are drawn; the table has all
_COLUMNS = (
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


def log_anchors(tracker: Any, record: SweepRecord) -> None:
    """Write `anchors.csv`, and `anchors/HASH/{heat_map.png,nearest_pairs.csv}` for each bank that students match."""
    banks = {facts["anchors"]["hash"]: (facts, place) for facts, place in _banks(record)}
    tracker.log_table([_row(facts) for facts, _ in banks.values()], "anchors.csv")
    for number, (facts, place) in enumerate(banks.values()):
        if number < _PICTURES:
            _log_bank(tracker, facts, place)


def _banks(record: SweepRecord) -> list[tuple[dict[str, Any], Path]]:
    """Facts of each set of stores, and where the first teacher's anchors lie."""
    opened = [json.loads(text) for text in record.assets.values()]
    return [(assets["facts"], Path(assets["teachers"][0]["anchors"])) for assets in opened]


def _row(facts: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: facts["anchors"][name] for name in _COLUMNS}
    own["prompts_per_class"] = " to ".join(map(str, dict.fromkeys(own["prompts_per_class"])))
    return {
        "teacher": facts["teacher"],
        **own,
        "teacher_zero_shot_val_top1": round(facts["teacher/zero_shot_val_top1"], 2),
    }


def _log_bank(tracker: Any, facts: Mapping[str, Any], place: Path) -> None:
    import numpy as np

    from beamclip.anchors.figures import heat_map
    from beamclip.stores import read_json

    report, names = facts["anchors"], (read_json(place / "manifest.json") or {}).get("names", [])
    title = f"{facts['teacher']}, {report['prompt_set']}: cosines of anchors"
    tracker.log_figure(
        heat_map(np.load(place / "anchors.npy"), names, title),
        f"anchors/{report['hash']}/heat_map.png",
    )
    pairs = [{"class": a, "other class": b, "cosine": cosine} for a, b, cosine in report["nearest"]]
    tracker.log_table(pairs, f"anchors/{report['hash']}/nearest_pairs.csv")


def open_tracker(record: SweepRecord, resume: bool) -> Any:
    """The sweep's tracker: a context manager that ends its run with a true status.

    Raises:
        UserError: the tracking server can't be used.
    """
    from beamclip.tracking import SweepTracker, told

    uri, root = tracking_uri(record.base), artifact_root(record.base)
    with told(
        "the sweep's run can't be written",
        "mend the tracking server, or choose another with --tracking-uri",
    ):
        return SweepTracker.open(
            uri, root, record.sweep, record.base, record.sweep_id, resume, provenance_tags()
        )


def write_beginning(tracker: Any, record: SweepRecord) -> None:
    """What was published, and how this sweep was called.

    Raises:
        UserError: it can't be written.
    """
    from beamclip.tracking import told, write_published

    with told("the sweep's run can't be written", "mend the tracking server and begin again"):
        write_published(tracker.client, tracker.experiment_id)
        folder = without_passwords(record.folder)
        tracker.tag_once(
            {"beamclip.command": command_line(), "beamclip.folder": folder}
        )  # resumed: as it was started


def write_found(tracker: Any, record: SweepRecord, bars: ProgressBars) -> None:
    """What the preparation found out about teacher, untrained student and anchors.

    Raises:
        UserError: it can't be written.
    """
    from beamclip.tracking import told

    with told("references and anchors can't be written"):
        write_references(tracker, record, bars.say)
        log_anchors(tracker, record)


def write_summary(tracker: Any, record: SweepRecord, bars: ProgressBars) -> bool:
    """Plots and effects, without which a sweep has ended all the same. Returns whether any trial has a result.

    Raises:
        UserError: what the trials have written can't be read.
    """
    from beamclip.reporting.comparison import compare
    from beamclip.tracking import told

    with told("what the trials wrote can't be read"):
        comparison = compare(tracking_uri(record.base), record.sweep.name, record.sweep_id)
    try:
        with told("plots and effects can't be written", "beamclip report draws them again"):
            _log_summary(tracker, comparison)
    except UserError as error:
        bars.say(f"beamclip: WARNING: {error}")
    return comparison.best_cell is not None


def _log_summary(tracker: Any, comparison: Any) -> None:
    from beamclip.reporting.cost_plot import cost_plot
    from beamclip.reporting.importance import effect_rows, effects
    from beamclip.reporting.importance_plots import effects_plot, parallel_plot
    from beamclip.reporting.setting_plots import temperature_plot

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plots = [temperature_plot(comparison.measured, folder / "accuracy.png")]
        plots += [
            effects_plot(comparison, folder / "effects.png"),
            parallel_plot(comparison, folder / "parallel.png"),
        ]
        plots.append(cost_plot(comparison, folder / "accuracy_cost.png"))
        for plot in filter(None, plots):
            tracker.client.log_artifact(tracker.run_id, str(plot))
    if found := effects(comparison):
        tracker.log_table(effect_rows(found), "effects.csv")


def print_comparison(record: SweepRecord) -> None:
    """The table, and what to type next."""
    from beamclip.reporting.comparison import compare
    from beamclip.reporting.tables import render

    uri, name, own = tracking_uri(record.base), record.sweep.name, record.sweep_id
    comparison = compare(uri, name, own)
    render(comparison, Console())
    best, latest = comparison.best.run_id if comparison.best else None, compare(uri, name).sweep_id
    print(next_lines(name, record.base, best, None if own == latest else own))

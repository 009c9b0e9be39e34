"""What has to be said under a comparison's table."""

from beamclip.tracking.cells import Cell
from beamclip.tracking.compare import Comparison
from beamclip.tracking.noise import LEVEL, TEST, over_seeds, verdicts
from beamclip.tracking.sheet import over_images

_FAILURES = 3  # named; the others are counted


def notes(comparison: Comparison) -> list[str]:
    """What marks and intervals mean, and what to know before believing them, in sentences."""
    of_the_best = (_best_note, _student_note, _tie_note, _untrained_note, _interval_note, _noise_note)
    said = [note(comparison) for note in of_the_best] if comparison.best_cell else []
    return [line for line in [*said, _unfinished_note(comparison), *_failures(comparison), _chance_note(comparison)] if line]


def _best_note(comparison: Comparison) -> str:
    seeds = comparison.best_cell is not None and len(comparison.best_cell.numbers(comparison.metric)) > 1
    return f"* best: chosen on {'the mean over seeds of ' if seeds else ''}{comparison.metric}, held out of train, not on test"


def _student_note(comparison: Comparison) -> str:
    row = comparison.best
    return f"the best student is run:{row.run_id}, to begin from with student.init or to probe again" if row else ""


def _tie_note(comparison: Comparison) -> str:
    best, metric = comparison.best_cell, comparison.metric
    assert best is not None
    alike = [cell for cell in comparison.cells if cell.finished and len(cell.numbers(metric)) == len(best.numbers(metric))]
    ties = sum(cell.mean(metric) == best.mean(metric) for cell in alike)
    return f"{ties} settings have the very same {metric}; which of them is marked says nothing" if ties > 1 else ""


def _unfinished_note(comparison: Comparison) -> str:
    asked = int(comparison.params.get("sweep.trials", len(comparison.trials)))
    over = sum(row.status in ("FINISHED", "FAILED") for row in comparison.trials)
    return "" if over >= asked else f"{over} of {asked} trials are over; what is missing is not in the table (go on with --resume)"


def _failures(comparison: Comparison) -> list[str]:
    failed = [row for row in comparison.trials if row.status == "FAILED"]
    said = [f"failed, {row.name}: {row.tags.get('beamclip.error', 'no reason is known')}" for row in failed[:_FAILURES]]
    return [*said, f"{len(failed) - _FAILURES} more failed"] if len(failed) > _FAILURES else said


def _chance_note(comparison: Comparison) -> str:
    near = comparison.tags.get("beamclip.teacher_near_chance")
    return f"the teacher hardly knows these classes by these names, so what students learn may be noise: {near}" if near else ""


def _untrained_note(comparison: Comparison) -> str:
    rows = [row for row in comparison.references if row.method == "untrained" and comparison.metric in row.metrics]
    base = max((row.metrics[comparison.metric] for row in rows), default=None)
    mean = comparison.best_cell.mean(comparison.metric) if comparison.best_cell else None
    if base is None or mean is None or mean > base:
        return ""
    return f"no trial beats the untrained student on {comparison.metric} ({mean:.1f} against {base:.1f})"


def _interval_note(comparison: Comparison) -> str:
    over = "a ±b: mean over seeds and half of its 95 % interval (Student's t)"
    images = "a (b-c): one run and its 95 % interval over test images, which does not cover seeds"
    several = any(len(cell.numbers(TEST)) > 1 for cell in comparison.cells)
    single = any(over_images(cell) for cell in [*comparison.cells, *(Cell((row,)) for row in comparison.references)])
    return "; ".join([over] * several + [images] * single)


def _noise_note(comparison: Comparison) -> str:
    if not any(verdicts(comparison)):
        return ""
    over = "Welch's t over seeds" if over_seeds(comparison) else "over test images, unpaired; other seeds may differ by more"
    return f"≈ best: not told apart from the best on {TEST}; worse, better: told apart ({over}; Holm, {100 * LEVEL:.0f} %)"

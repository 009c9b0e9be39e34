"""Write the report of a sweep: collect its sections, render them, log the files.

This is what `beamclip report` does.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from beamclip.config import Experiment, UserError
from beamclip.reporting.comparison import TEST_METRIC, Comparison, compare
from beamclip.reporting.mistakes import confusion_section, disagreement_section
from beamclip.reporting.origins import (
    data_problems_section,
    reproduction_sections,
    runs_section,
    selection_section,
)
from beamclip.reporting.page import Page, render_html, render_markdown
from beamclip.reporting.results import (
    accuracy_cost_section,
    costs_section,
    curves_section,
    importance_section,
    results_section,
)
from beamclip.reporting.sources import TrialStores, find_sweep_record, open_trial_stores
from beamclip.stores import make_folder
from beamclip.stores.paths import local_folder, storage_root, tracking_uri
from beamclip.tracking import Artifacts


def write_report(
    base: Experiment, experiment: str, sweep_id: str | None = None, out: Path | None = None
) -> Path:
    """Write `report.html` and `report.md` with its pictures, and log them to the sweep's run.

    If something can't be shown, the page says so and why. The paths of both files are printed.

    Args:
        base: settings; only those of the tracking server and the storage are used.
        experiment: name of the sweep.
        sweep_id: id of the sweep; default: the latest sweep of that name.
        out: folder to write to; default: `sweeps/NAME/ID/report` in the storage.

    Returns:
        Path of `report.html`.

    Raises:
        UserError: there is no such sweep, or `out` can't be written.
    """
    comparison = compare(tracking_uri(base), experiment, sweep_id)
    files = Artifacts(tracking_uri(base))
    out = out or _default_folder(comparison, base)
    with tempfile.TemporaryDirectory() as temporary:
        # copytree also copies the folder's permissions. Only its owner can read a temporary
        # folder, so write to a subfolder with the usual permissions.
        folder = Path(temporary) / "report"
        folder.mkdir()
        page = build_page(comparison, files, base, folder / "figures")
        _write_page(page, folder)
        _copy(folder, out)
        _log_with_sweep(files, comparison, folder, out)
    print(out / "report.html")
    print(out / "report.md")
    return out / "report.html"


def build_page(comparison: Comparison, files: Artifacts, base: Experiment, figures: Path) -> Page:
    """Build the content of the report.

    Args:
        comparison: the sweep.
        files: artifacts of the sweep's runs in MLflow.
        base: settings; only those of the storage are used.
        figures: folder to write figures to.
    """
    stores, reason = _open_stores(comparison, base)
    packed = stores.packed if stores else None
    class_names = stores.names if stores else ()
    sections = (
        results_section(comparison),
        curves_section(comparison, figures),
        importance_section(comparison, figures),
        accuracy_cost_section(comparison, figures),
        confusion_section(comparison, files, class_names),
        disagreement_section(comparison.best, files, stores, reason),
        costs_section(comparison),
        data_problems_section(packed, reason),
        selection_section(comparison),
        *reproduction_sections(comparison, files),
        runs_section(comparison),
    )
    title = f"{comparison.experiment}, sweep {comparison.sweep_id}"
    # A sweep without a question is tagged "-".
    question = comparison.question if comparison.question.strip("-") else ""
    return Page(title, question, _facts(comparison), sections)


def _facts(comparison: Comparison) -> tuple[tuple[str, str], ...]:
    """Return the label and text of each line at the top of the page."""
    finished = sum(row.status == "FINISHED" for row in comparison.trials)
    facts = [
        ("status", comparison.status),
        ("trials", f"{finished} of {len(comparison.trials)} finished"),
    ]
    best = comparison.best_group
    if best is not None:
        facts.append(("best settings", best.name))
        accuracy = best.mean(TEST_METRIC)
        if accuracy is not None:
            facts.append(("their linear probe on test", f"{accuracy:.1f} %"))
    facts.append(("varied", ", ".join(comparison.varied) or "nothing"))
    return tuple(facts)


def _open_stores(comparison: Comparison, base: Experiment) -> tuple[TrialStores | None, str]:
    """Return the stores of the best trial, or None and the reason why they can't be read."""
    trial = comparison.best
    # If none has finished, another trial's stores still tell which images were unreadable.
    if trial is None and comparison.trials:
        trial = comparison.trials[0]
    if trial is None:
        return None, "The sweep has no trials."
    try:
        return open_trial_stores(find_sweep_record(comparison, base), trial), ""
    except UserError as error:
        return None, f"The images and stores can't be read: {error}."


def _default_folder(comparison: Comparison, base: Experiment) -> Path:
    root = local_folder(storage_root(base))
    if root is None:
        raise UserError(
            f"storage {storage_root(base)} is not a folder of this machine; "
            "choose a folder for the report with --out"
        )
    return root / "sweeps" / comparison.experiment / comparison.sweep_id / "report"


def _write_page(page: Page, folder: Path) -> None:
    (folder / "report.html").write_text(render_html(page), encoding="utf-8")
    (folder / "report.md").write_text(render_markdown(page), encoding="utf-8")
    for section in page.sections:
        for image in section.images:
            (folder / "images").mkdir(exist_ok=True)
            (folder / "images" / image.name).write_bytes(image.jpeg)


def _copy(folder: Path, out: Path) -> None:
    make_folder(out)
    try:
        shutil.copytree(folder, out, dirs_exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{out} can't be written ({reason}); choose another folder with --out"
        ) from None


def _log_with_sweep(files: Artifacts, comparison: Comparison, folder: Path, out: Path) -> None:
    """Log the report to the folder `report/` of the sweep's run.

    The report is in `out` already, so if the upload fails, only a warning is printed.
    """
    problem = files.write(comparison.run_id, folder, "report")
    if problem:
        print(
            f"beamclip: WARNING: the report is in {out} but could not be logged with the sweep "
            f"({problem})",
            file=sys.stderr,
        )

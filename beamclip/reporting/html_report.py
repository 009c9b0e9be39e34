"""`beamclip report`: gather, write, and keep with the sweep."""

import shutil
import sys
import tempfile
from pathlib import Path

from beamclip.config import Experiment, UserError
from beamclip.reporting.comparison import Comparison, compare
from beamclip.reporting.mistakes import confusion_pairs, disagreement
from beamclip.reporting.origins import data_problems, how_chosen, made_again, runs
from beamclip.reporting.page import Page, html_of, markdown_of
from beamclip.reporting.results import accuracy_against_cost, costs, curves, tables, what_mattered
from beamclip.reporting.sources import Stores, open_stores, sweep_record
from beamclip.stores import make_folder
from beamclip.stores.paths import local_folder, storage_root, tracking_uri
from beamclip.tracking import Artifacts


def report_sweep(
    base: Experiment, experiment: str, sweep_id: str | None = None, out: Path | None = None
) -> Path:
    """Write `report.html`, `report.md` and the pictures of the latter, and log them with the sweep as `report/`.

    Args:
        base: says where results and, for sweeps that did not note it, their storage are.
        out: default `sweeps/NAME/ID/report` in the storage.

    Returns:
        Path of the page.

    Raises:
        UserError: no such sweep, or `out` can't be written. What a sweep lacks is said on the page instead.
    """
    comparison, files = (
        compare(tracking_uri(base), experiment, sweep_id),
        Artifacts(tracking_uri(base)),
    )
    out = out or _default_place(comparison, base)
    with tempfile.TemporaryDirectory() as name:
        folder = (
            Path(name) / "report"
        )  # what is copied has the rights of a folder of its own; a temporary one is its owner's alone
        folder.mkdir()
        _write(gathered(comparison, files, base, folder / "figures"), folder)
        _copy(folder, out)
        _log(files, comparison, folder, out)
    print(f"{out / 'report.html'}\n{out / 'report.md'}")
    return out / "report.html"


def gathered(comparison: Comparison, files: Artifacts, base: Experiment, figures: Path) -> Page:
    """All that can be said of a sweep. `figures`: the folder its figures are drawn into."""
    stores, why_not = _stores(comparison, base)
    sections = [
        tables(comparison),
        curves(comparison, figures),
        what_mattered(comparison, figures),
        accuracy_against_cost(comparison, figures),
        confusion_pairs(comparison, files, stores.names if stores else ()),
        disagreement(comparison.best, files, stores, why_not),
        costs(comparison),
        data_problems(stores.packed if stores else None, why_not),
        how_chosen(comparison),
        *made_again(comparison, files),
        runs(comparison),
    ]
    question = comparison.question if comparison.question.strip("-") else ""
    return Page(
        f"{comparison.experiment}, sweep {comparison.sweep_id}",
        question,
        _facts(comparison),
        tuple(sections),
    )


def _facts(comparison: Comparison) -> tuple[tuple[str, str], ...]:
    done = sum(row.status == "FINISHED" for row in comparison.trials)
    best = comparison.best_cell
    reached = best.mean("linear_probe/test_top1") if best else None
    said = {"status": comparison.status, "trials": f"{done} of {len(comparison.trials)} finished"}
    said |= {"best settings": best.name} if best else {}
    said |= {"their linear probe on test": f"{reached:.1f} %"} if reached is not None else {}
    return tuple({**said, "varied": ", ".join(comparison.varied) or "nothing"}.items())


def _stores(comparison: Comparison, base: Experiment) -> tuple[Stores | None, str]:
    trial = comparison.best or next(iter(comparison.trials), None)
    if trial is None:
        return None, "The sweep has no trials."
    try:
        return open_stores(sweep_record(comparison, base), trial), ""
    except UserError as error:
        return None, f"The images and stores can't be reached: {error}."


def _default_place(comparison: Comparison, base: Experiment) -> Path:
    root = local_folder(storage_root(base))
    if root is None:
        raise UserError(
            f"storage {storage_root(base)} is no folder of this machine; name one for the page with --out"
        )
    return root / "sweeps" / comparison.experiment / comparison.sweep_id / "report"


def _write(page: Page, folder: Path) -> None:
    (folder / "report.html").write_text(html_of(page), encoding="utf-8")
    (folder / "report.md").write_text(markdown_of(page), encoding="utf-8")
    for section in page.sections:
        for image in section.images:
            (folder / "images").mkdir(exist_ok=True)
            (folder / "images" / image.name).write_bytes(image.jpeg)


def _copy(folder: Path, out: Path) -> None:
    make_folder(out)
    try:
        shutil.copytree(folder, out, dirs_exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{out} can't be written ({error.strerror or error}); choose another folder with --out"
        ) from None


def _log(files: Artifacts, comparison: Comparison, folder: Path, out: Path) -> None:
    """The page is there already, so a server that takes no files is worth a line, not a failure."""
    if trouble := files.write(comparison.run_id, folder, "report"):
        print(
            f"beamclip: the page is in {out}, but could not be logged with the sweep ({trouble})",
            file=sys.stderr,
        )

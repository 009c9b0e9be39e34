"""`beamclip anchors`: build the text anchors of the classes and describe them.

Encodes texts only, no image. With --explain, describe the senses of the classes instead.
"""

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from beamclip.anchors import AnchorReport, AnchorSet, anchor_report, truncated_prompts
from beamclip.anchors.figures import heat_map
from beamclip.anchors.prompts import uses_senses
from beamclip.anchors.senses import Sense, ambiguous_senses, pin_option
from beamclip.anchors.similarity import NEAR_DUPLICATE, measure_similarity
from beamclip.anchors.wordnet import open_lexicon
from beamclip.anchors.wordnet.lexicon import HOW_TO_INSTALL
from beamclip.cli.options import experiment_from_options
from beamclip.config import Experiment, UserError, with_values
from beamclip.config.metrics import near_chance
from beamclip.preparation.anchors import (
    ExperimentAnchorSets,
    anchor_set_key,
    make_anchor_sets,
    plan_anchor_sets,
)
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.sense_evidence import (
    propose_senses,
    teacher_has_seen_images,
    teacher_zero_shot,
)
from beamclip.stores import Store
from beamclip.stores.paths import check_writable, stores_root
from beamclip.sweep.progress import ProgressBars

# Number of nearest pairs in the printed table; nearest_pairs.csv has more.
_MAX_PAIRS = 8


@dataclass(frozen=True)
class _BuiltAnchorSet:
    """A finished anchor set and what is needed to describe it.

    Attributes:
        teacher: name of the teacher whose text tower encoded it.
        store: the store that holds it.
        prompt_set: what the user calls the prompt set. Prompt sets that give the same sentences
            share a store, so the store does not know it.
        senses: sense of each class, in label order.
        uses_senses: whether the prompts depend on senses, not on class names alone.
    """

    teacher: str
    store: Store
    prompt_set: str
    senses: tuple[Sense, ...]
    uses_senses: bool

    @property
    def embeddings(self) -> Tensor:
        """The anchors, [K, D]."""
        return AnchorSet.open(self.store).embeddings

    def report(self, near: float) -> AnchorReport:
        """Return facts about the anchor set.

        Args:
            near: smallest cosine at which two anchors count as near-duplicates.
        """
        report = anchor_report(self.store, self.prompt_set, self.senses)
        # The store holds the pairs at its own threshold; for any other, they are computed again.
        if near == report.threshold:
            return report
        return report.with_similarity(measure_similarity(self.embeddings, near), self.senses)


def run_anchors(options: argparse.Namespace) -> None:
    """Describe the anchors of the experiment given by the options, or explain its senses."""
    if options.strict_senses:
        options.set.append("anchors.strict_senses=true")
    experiment = experiment_from_options(options)
    if options.explain:
        _refuse_unused(options)
        explain_classes(experiment)
        return
    near = NEAR_DUPLICATE if options.near is None else options.near
    folder = Path(options.out) if options.out else None
    describe_anchors(experiment, near, folder)


def _refuse_unused(options: argparse.Namespace) -> None:
    """Raise UserError if options are given that --explain can't use."""
    for name in ("near", "out"):
        if getattr(options, name) is not None:
            raise UserError(
                f"--{name} is about the description of the anchors, which --explain leaves out; "
                "give one of the two"
            )


def describe_anchors(
    experiment: Experiment, near: float = NEAR_DUPLICATE, out: Path | None = None
) -> list[AnchorReport]:
    """Build an experiment's anchors if they are missing, print a description, and write files.

    Args:
        experiment: the settings.
        near: smallest cosine at which two anchors count as near-duplicates, in [-1, 1].
        out: the files of an anchor set go to the folder HASH in this one; default: `anchors` next
            to the stores.

    Returns:
        A report on each anchor set; the one of the data's own classes is last.

    Raises:
        UserError: class names, senses, prompt sets, vocabulary or teacher are not usable.
    """
    check_writable(experiment)
    root = stores_root(experiment)
    with ProgressBars() as bars:
        context = _context(root, bars)
        planned = plan_anchor_sets(experiment, context)
        anchor_sets = _build(experiment, planned, context)
    folder = out or root.parent / "anchors"
    reports = [_describe(anchor_set, near, folder) for anchor_set in anchor_sets]
    _print_zero_shot(experiment, anchor_sets[-1], context)
    return reports


def explain_classes(experiment: Experiment) -> None:
    """Print the senses considered for each class and why one was chosen.

    No teacher is loaded, unless it has encoded images of this data. It then also says which senses
    the images show.

    Args:
        experiment: the settings.

    Raises:
        UserError: class names, senses, prompt sets or vocabulary are not usable, or
            `anchors.strict_senses` is set and a sense is ambiguous.
    """
    with ProgressBars() as bars:
        context = _context(stores_root(experiment), bars)
        # With `anchors.strict_senses`, the error comes after the explanation that it asks for.
        lenient = with_values(experiment, {"anchors.strict_senses": False})
        planned = plan_anchor_sets(lenient, context)
        _, own_plan = planned.own
        proposed = None
        if teacher_has_seen_images(experiment, context):
            check_writable(experiment)
            own = _build(experiment, planned, context)[-1]
            # A teacher near chance can't tell what the images show.
            if _print_zero_shot(experiment, own, context):
                proposed = propose_senses(experiment, own_plan.senses, context)
    vocabulary = experiment.anchors.vocabulary
    if vocabulary != "data":
        # Of a vocabulary, which may have thousands of names, only list the ambiguous ones. All
        # teachers share the senses.
        _, vocabulary_plan = planned.matched[0]
        ambiguous = ambiguous_senses(vocabulary_plan.senses)
        explain_senses(f"Ambiguous names of {vocabulary}", ambiguous, None)
    explain_senses("The data's own classes", own_plan.senses, proposed)
    if experiment.anchors.strict_senses:
        plan_anchor_sets(experiment, context)


def _context(root: Path, bars: ProgressBars) -> PreparationContext:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return PreparationContext(root, device, bars)


def _build(
    experiment: Experiment, planned: ExperimentAnchorSets, context: PreparationContext
) -> list[_BuiltAnchorSet]:
    """Build the anchor sets, and return the one of the data's own classes last."""
    stores = make_anchor_sets([planned], context)
    # By key, because anchor sets may be the same: often students match the data's own classes.
    by_key = {}
    for tower, plan in planned.all():
        by_key[anchor_set_key(tower, plan, context)] = (tower, plan)
    # Move the data's own classes to the end.
    own_key = anchor_set_key(*planned.own, context)
    by_key[own_key] = by_key.pop(own_key)
    anchor_sets = []
    for key, (tower, plan) in by_key.items():
        members = experiment.anchors.members(plan.prompt_set)
        anchor_sets.append(
            _BuiltAnchorSet(
                teacher=context.teacher(tower).name,
                store=stores[key],
                prompt_set=plan.prompt_set,
                senses=plan.senses,
                uses_senses=any(uses_senses(member) for member in members),
            )
        )
    return anchor_sets


def _describe(anchor_set: _BuiltAnchorSet, near: float, folder: Path) -> AnchorReport:
    """Print the table of an anchor set and write its files."""
    report = anchor_set.report(near)
    Console().print(_report_table(anchor_set, report))
    files = folder / report.hash
    _write_files(anchor_set, report, files)
    print(f"heat map, nearest pairs, senses, shortened prompts: {files}\n")
    return report


def _report_table(anchor_set: _BuiltAnchorSet, report: AnchorReport) -> Table:
    # Class names and prompt sets may contain brackets, which rich would take for markup.
    title = escape(f"Anchors of {anchor_set.teacher}: {report.prompt_set}")
    table = Table("", "", title=title, title_justify="left", show_header=False)
    fewest, most = report.prompts_per_class
    per_class = str(fewest) if fewest == most else f"{fewest} to {most}"
    table.add_row("anchors", f"{report.anchors:,}")
    table.add_row("prompts", f"{report.prompts:,}, {per_class} a class")
    table.add_row("sense unknown", _unknown_senses(report.bare))
    ambiguous = len(ambiguous_senses(anchor_set.senses))
    table.add_row("sense ambiguous", f"{ambiguous:,} classes (see --explain)")
    if not anchor_set.uses_senses:
        table.add_row(
            "prompts contain",
            "names only: senses and pins change nothing (with cpa, gloss and hypernym they do)",
        )
    shortened = "none"
    if report.shortened:
        shortened = f"{report.shortened:,} prompts, too long for the text tower"
    table.add_row("shortened", shortened)
    table.add_row("same anchor", f"{report.duplicates:,} pairs")
    table.add_row(f"cosine ≥ {report.threshold:g}", f"{report.near:,} pairs")
    nearest = [
        f"{name} – {other}  {cosine:.3f}" for name, other, cosine in report.nearest[:_MAX_PAIRS]
    ]
    table.add_row("nearest", escape("\n".join(nearest)))
    table.add_row("hash", report.hash)
    return table


def _unknown_senses(classes: int) -> str:
    """Describe the number of classes without a known sense, and how to know more of them."""
    if not classes:
        return "none"
    text = f"{classes:,} classes: only their names are used"
    if not open_lexicon().complete:
        text += f"; more senses may be known once you {HOW_TO_INSTALL}"
    return text


def _write_files(anchor_set: _BuiltAnchorSet, report: AnchorReport, folder: Path) -> None:
    """Write heat_map.png, nearest_pairs.csv, senses.csv and shortened.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [sense.name for sense in anchor_set.senses]
    title = f"{anchor_set.teacher}, {report.prompt_set}: cosines of anchors"
    figure = heat_map(anchor_set.embeddings.numpy(), names, title)
    figure.savefig(folder / "heat_map.png", dpi=130)
    _write_csv(folder / "nearest_pairs.csv", ("class", "class", "cosine"), report.nearest)
    senses = []
    for sense in anchor_set.senses:
        synset_id = sense.synset.id if sense.synset else ""
        gloss = sense.synset.gloss if sense.synset else ""
        senses.append((sense.name, synset_id, sense.context or gloss, sense.why))
    _write_csv(folder / "senses.csv", ("class", "synset", "meaning", "why"), senses)
    shortened = list(truncated_prompts(anchor_set.store).items())
    _write_csv(folder / "shortened.csv", ("prompt", "read as"), shortened)


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _print_zero_shot(
    experiment: Experiment, own: _BuiltAnchorSet, context: PreparationContext
) -> bool:
    """Print the teacher's zero-shot accuracy with the anchors of the data's own classes.

    Returns:
        True if the accuracy is known and clearly above chance.
    """
    accuracy = teacher_zero_shot(experiment, AnchorSet.open(own.store), context)
    if accuracy is None:
        print("zero-shot on val: not known until the teacher has encoded val (beamclip embed)")
        return False
    top1, low = accuracy
    classes = len(own.senses)
    print(
        f"zero-shot of {own.teacher} on val: {top1:.1f} % (95 % interval from {low:.1f} %; "
        f"chance {100 / classes:.1f} %)"
    )
    if near_chance(low, classes):
        print(
            f"WARNING: that is near chance: {own.teacher} hardly knows these classes by these "
            "names; try other names or prompt sets"
        )
        return False
    return True


# --- Option --explain ---


def explain_senses(title: str, senses: Sequence[Sense], proposed: Sequence[Sense] | None) -> None:
    """Print a paragraph for each class: its sense, why it was chosen, and the other senses.

    Args:
        title: heading of the paragraphs.
        senses: the sense of each class.
        proposed: the sense of each class according to the images, in the same order; None if the
            images were not used.
    """
    console = Console(highlight=False)
    console.print(f"\n[bold]{escape(title)}[/]\n", soft_wrap=True)
    for index, sense in enumerate(senses):
        proposed_sense = None if proposed is None else proposed[index]
        _explain_sense(console, sense, proposed_sense)
    print()
    _print_pins(senses, proposed)


def _explain_sense(console: Console, sense: Sense, proposed: Sense | None) -> None:
    meaning = escape(_describe_sense(sense))
    console.print(f"[bold]{escape(sense.name)}[/]: {meaning}", soft_wrap=True)
    console.print(f"    why: {escape(sense.why)}", soft_wrap=True)
    # Only senses that were chosen among several have scores. The images don't overrule pins.
    if sense.scores and proposed is not None and proposed.synset is not None:
        shown = proposed.synset
        if shown != sense.synset:
            text = escape(f"{shown.id} {shown.gloss}: {proposed.why}")
            console.print(f"    [yellow]but the images show {text}[/]", soft_wrap=True)
    for index, synset in enumerate(sense.considered):
        is_chosen = sense.synset is not None and synset.id == sense.synset.id
        if is_chosen:
            continue
        score = f" ({sense.scores[index]:.2f})" if sense.scores else ""
        console.print(
            f"    not {synset.id}{score} {escape(synset.gloss)}", no_wrap=True, overflow="ellipsis"
        )


def _describe_sense(sense: Sense) -> str:
    if sense.synset is None:
        return sense.context or "its name alone"
    text = f"{sense.synset.id} {sense.synset.gloss}"
    return f"{text} (a type of {sense.hypernym})" if sense.hypernym else text


def _print_pins(senses: Sequence[Sense], proposed: Sequence[Sense] | None) -> None:
    """Print the option that pins the ambiguous senses, ready to copy."""
    best_senses = senses if proposed is None else proposed
    pins = {}
    for sense, best in zip(senses, best_senses, strict=True):
        if sense.scores and best.synset:
            pins[best.name] = best.synset.id
    if not pins:
        return
    if proposed is not None:
        basis = "what the images show"
    else:
        basis = (
            "the other classes (and of what the images show, once beamclip embed has encoded them)"
        )
    print(
        f"{len(pins)} of these senses were chosen because of {basis}. Check them, then pin them "
        "with:\n"
        f"  {pin_option(pins)}\n"
    )

"""`beamclip anchors`: what the classes mean, the anchors made of them, and what is wrong with them. No image is encoded."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from beamclip.anchors import AnchorReport, AnchorSet, report_of, shortened_prompts
from beamclip.anchors.figures import heat_map
from beamclip.anchors.prompts import speaks_of_senses
from beamclip.anchors.senses import Sense, ambiguous, pin_option
from beamclip.anchors.similarity import NEAR, Likeness, likeness
from beamclip.anchors.wordnet import open_lexicon
from beamclip.anchors.wordnet.lexicon import HOW_TO_INSTALL
from beamclip.config import Experiment
from beamclip.preparation.anchors import (
    ExperimentAnchorSets,
    anchor_sets_of,
    make_anchor_sets,
    place_of,
)
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.sense_evidence import proposals, teacher_zero_shot
from beamclip.stores import Store
from beamclip.stores.paths import check_writable, stores_root
from beamclip.sweep.progress import ProgressBars
from beamclip.sweep.reference_runs import near_chance

# `beamclip anchors --explain`: the sense of each class, why it was chosen, and which others were considered.


def explain_senses(title: str, senses: Sequence[Sense], proposed: Sequence[Sense] | None) -> None:
    """A paragraph a class: the sense chosen, why, and the others below it with what they weighed."""
    console = Console(highlight=False)
    console.print(f"\n[bold]{escape(title)}[/]\n", soft_wrap=True)
    for number, sense in enumerate(senses):
        console.print(f"[bold]{escape(sense.name)}[/]: {escape(_meaning(sense))}", soft_wrap=True)
        console.print(f"    why: {escape(sense.why)}", soft_wrap=True)
        better = proposed[number] if proposed is not None else None
        if (
            better is not None
            and better.synset is not None
            and sense.scores
            and better.synset != sense.synset
        ):
            said = f"{better.synset.id} {better.synset.gloss}: {better.why}"
            console.print(f"    [yellow]but the images speak for {escape(said)}[/]", soft_wrap=True)
        for place, one in enumerate(sense.considered):
            if sense.synset is None or one.id != sense.synset.id:
                weight = f" ({sense.scores[place]:.2f})" if sense.scores else ""
                console.print(
                    f"    not {one.id}{weight} {escape(one.gloss)}",
                    no_wrap=True,
                    overflow="ellipsis",
                )
    print()
    _suggest_pins(senses, proposed)


def _meaning(sense: Sense) -> str:
    if sense.synset is None:
        return sense.context or "its name alone"
    kind = f" (a type of {sense.hypernym})" if sense.hypernym else ""
    return f"{sense.synset.id} {sense.synset.gloss}{kind}"


def _suggest_pins(senses: Sequence[Sense], proposed: Sequence[Sense] | None) -> None:
    """A line to copy, for what nobody has said so far."""
    best = proposed or senses
    pins = {
        one.name: one.synset.id
        for one, weighed in zip(best, senses, strict=True)
        if weighed.scores and one.synset
    }
    if not pins:
        return
    basis = (
        "what the images show"
        if proposed is not None
        else "the other classes; once the teacher has seen the images (beamclip embed), they are asked too"
    )
    print(
        f"{len(pins)} of them weighed by {basis}. To pin them, after a look:\n  {pin_option(pins)}\n"
    )


_SHOWN = 8  # pairs; the file has more


@dataclass(frozen=True)
class _Made:
    """One bank, ready to be told of."""

    teacher: str
    store: Store
    prompt_set: str
    senses: tuple[Sense, ...]
    near: float
    speaks: bool
    """Whether its prompts say more than names."""

    @property
    def anchors(self) -> Tensor:
        return AnchorSet.open(self.store).embeddings

    def report(self) -> AnchorReport:
        report = report_of(self.store, self.prompt_set, self.senses)
        return (
            report
            if self.near == report.threshold
            else report.with_likeness(self._likeness(), self.senses)
        )

    def _likeness(self) -> Likeness:
        return likeness(self.anchors, self.near)


def describe_anchors(
    experiment: Experiment, explain: bool = False, near: float = NEAR, out: Path | None = None
) -> list[AnchorReport]:
    """Make an experiment's anchors where they are missing, print what they are like, and write the files.

    Args:
        explain: at last say, class by class, which senses were considered and why one was chosen.
        near: cosine from which two anchors are called near-duplicates.
        out: folder of the files; default `anchors/KEY` beside the stores.

    Raises:
        UserError: anything about names, senses, prompt sets, vocabulary or teacher.
    """
    check_writable(experiment)
    with ProgressBars() as bars:
        workshop = PreparationContext(
            stores_root(experiment),
            torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            bars,
        )
        banks = anchor_sets_of(experiment, workshop)
        made = _made(experiment, banks, workshop, near)
    reports = [_tell(one, out or stores_root(experiment).parent / "anchors") for one in made]
    knows = _say_zero_shot(experiment, made[-1], workshop)
    if explain:
        if experiment.anchors.vocabulary != "data":
            explain_senses(
                f"Weighed names of {experiment.anchors.vocabulary}",
                ambiguous(banks.matched[0][1].senses),
                None,
            )
        senses = banks.own[1].senses
        explain_senses(
            "The data's own classes",
            senses,
            proposals(experiment, senses, workshop) if knows else None,
        )
    return reports


def _made(
    experiment: Experiment, banks: ExperimentAnchorSets, workshop: PreparationContext, near: float
) -> list[_Made]:
    """Every bank once, the one of the data's own classes last."""
    stores = make_anchor_sets([banks], workshop)
    places = {place_of(tower, plan, workshop): (tower, plan) for tower, plan in banks.all()}
    ordered = [place for place in places if place != place_of(*banks.own, workshop)] + [
        place_of(*banks.own, workshop)
    ]
    plans = [(place, *places[place]) for place in ordered]
    said = {
        plan.prompt_set: any(map(speaks_of_senses, experiment.anchors.members(plan.prompt_set)))
        for _, _, plan in plans
    }
    return [
        _Made(
            workshop.teacher(tower).name,
            stores[place],
            plan.prompt_set,
            plan.senses,
            near,
            said[plan.prompt_set],
        )
        for place, tower, plan in plans
    ]


def _tell(one: _Made, folder: Path) -> AnchorReport:
    report = one.report()
    table = Table(
        "",
        "",
        title=escape(f"Anchors of {one.teacher}: {report.prompt_set}"),
        title_justify="left",
        show_header=False,
    )
    low, high = report.prompts_per_class
    for name, value in (
        ("anchors", f"{report.anchors:,}"),
        ("prompts", f"{report.prompts:,}, {low if low == high else f'{low} to {high}'} a class"),
        ("sense unknown", _said_of_bare(report.bare)),
        ("sense weighed", f"{len(ambiguous(one.senses)):,} classes (--explain says how)"),
        *(
            []
            if one.speaks
            else [
                (
                    "prompts say",
                    "names only: no sense and no pin changes them (cpa, gloss, hypernym say more)",
                )
            ]
        ),
        (
            "shortened",
            f"{report.shortened:,} prompts, too long for the text tower"
            if report.shortened
            else "none",
        ),
        ("the same anchor", f"{report.duplicates:,} pairs"),
        (f"cosine ≥ {report.threshold:g}", f"{report.near:,} pairs"),
        (
            "nearest",
            escape(
                "\n".join(f"{a} – {b}  {cosine:.3f}" for a, b, cosine in report.nearest[:_SHOWN])
            ),
        ),
        ("hash", report.hash),
    ):
        table.add_row(name, value)
    Console().print(table)
    print(
        f"heat map, nearest pairs, senses, shortened prompts: {_write_files(one, report, folder / report.hash)}\n"
    )
    return report


def _said_of_bare(count: int) -> str:
    if not count:
        return "none"
    more = "" if open_lexicon().complete else f"; more may be known once you {HOW_TO_INSTALL}"
    return f"{count:,} classes go by their name alone{more}"


def _write_files(one: _Made, report: AnchorReport, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    figure = heat_map(
        one.anchors.numpy(),
        [sense.name for sense in one.senses],
        f"{one.teacher}, {report.prompt_set}: cosines of anchors",
    )
    figure.savefig(folder / "heat_map.png", dpi=130)
    _write_csv(folder / "nearest_pairs.csv", [("class", "class", "cosine"), *report.nearest])
    senses = [
        (
            s.name,
            s.synset.id if s.synset else "",
            s.context or (s.synset.gloss if s.synset else ""),
            s.why,
        )
        for s in one.senses
    ]
    _write_csv(folder / "senses.csv", [("class", "synset", "meaning", "why"), *senses])
    _write_csv(
        folder / "shortened.csv", [("prompt", "read as"), *shortened_prompts(one.store).items()]
    )
    return folder


def _write_csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def _say_zero_shot(experiment: Experiment, own: _Made, workshop: PreparationContext) -> bool:
    """The teacher's own accuracy with these anchors: whether it knows the classes by these names. True where it is seen to."""
    found = teacher_zero_shot(experiment, AnchorSet.open(own.store), workshop)
    if found is None:
        print("zero-shot on val: not known before the teacher has seen it (beamclip embed)")
        return False
    per_cent, low = found
    chance, poor = 100 / len(own.senses), near_chance(low, len(own.senses))
    print(
        f"zero-shot of {own.teacher} on val: {per_cent:.1f} %, surely above {low:.1f} % (chance {chance:.1f} %)"
    )
    if poor:
        print(
            f"WARNING: that is near chance: {own.teacher} hardly knows these classes by these names; try other names or prompt sets"
        )
    return not poor

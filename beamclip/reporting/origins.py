"""Where the numbers come from: how choices were made, what was wrong with the data, and how to make them again."""

import re
from collections import defaultdict
from collections.abc import Mapping

from beamclip.config.provenance import without_passwords
from beamclip.data import PackedImages
from beamclip.reporting.comparison import Comparison
from beamclip.reporting.page import Section
from beamclip.reporting.significance import over_seeds
from beamclip.reporting.tables import Line, Sheet
from beamclip.tracking import Artifacts

_REASONS, _EXAMPLES = 20, 3


def how_chosen(comparison: Comparison) -> Section:
    """What was looked at when, and what the intervals cover."""
    seeds = sorted(
        {row.values["seed"] for row in comparison.trials if "seed" in row.values},
        key=lambda seed: (len(seed), seed),
    )
    said = [
        f"The best settings were chosen on {comparison.metric}, and all that is chosen inside a probe on val, which is held out of train.",
        "Test was looked at once a trial, after its probe was chosen; it bears on no choice.",
    ]
    if over_seeds(comparison):
        said.append(f"{_seeds(comparison, seeds)} Intervals over seeds are Student's t at 95 %.")
        said.append(
            "They cover the student's first weights and the order of images, not the draw of test images nor another split of train."
        )
        said.append(
            "Differences from the best are judged by Welch's t-test over seeds with Holm's correction at 5 %."
        )
        said.append(
            "A cell whose seeds were lucky is better on val and on test, so the best's mean lies somewhat too high; to quote it, train "
            "these settings again with other seeds."
        )
    else:
        seed = ", ".join(seeds) or comparison.params.get("seed", "0")
        said.append(
            f"One seed ({seed}) a trial: intervals are at 95 % over test images; another seed may differ by more."
        )
        said.append(
            "Differences from the best are judged over test images, unpaired (Newcombe), with Holm's correction at 5 %."
        )
    return Section("How choices were made", tuple(said))


def _seeds(comparison: Comparison, seeds: list[str]) -> str:
    """Which seeds cells were trained with, and how many of the cells lack one."""
    asked = f"Every cell was to be trained with the seeds {', '.join(seeds)}"
    lacking = sum(len(cell.numbers(comparison.metric)) < len(seeds) for cell in comparison.cells)
    if not lacking:
        return f"{asked}, and was."
    return f"{asked}; {lacking} of {len(comparison.cells)} lack the result of one or more, and are not compared with the best."


def data_problems(packed: PackedImages | None, why_not: str) -> Section:
    """Images that were left out when they were packed, and why."""
    title = "Data problems met"
    if packed is None:
        return Section(title, missing=(why_not,))
    if not packed.bad:
        return Section(title, (f"None: all {len(packed):,} images could be read.",))
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, reason in packed.bad:
        reasons[reason].append(name)
    most = sorted(reasons.items(), key=lambda item: -len(item[1]))
    lines = [
        Line("trial", (reason, ", ".join(names[:_EXAMPLES]), str(len(names))))
        for reason, names in most[:_REASONS]
    ]
    rest = (
        (f"{len(most) - _REASONS} rarer reasons are in bad.csv of the packed store.",)
        if len(most) > _REASONS
        else ()
    )
    text = f"{len(packed.bad):,} of {len(packed) + len(packed.bad):,} images could not be read and were left out."
    return Section(
        title, (text, *rest), (Sheet("", ("reason", "for example", "images"), tuple(lines), 2),)
    )


def made_again(comparison: Comparison, files: Artifacts) -> tuple[Section, Section]:
    """What to type, with which versions; and, folded, all settings."""
    tags, command = comparison.tags, comparison.tags.get("beamclip.command")
    facts = {name: tags.get(tag, "not recorded") for name, tag in _facts(tags).items()} | _keys(
        comparison
    )
    lines = [Line("trial", pair) for pair in facts.items()]
    sheets = (Sheet("", ("what", "value"), tuple(lines), 2),)
    missing = (
        ()
        if command
        else (
            "The command line was not recorded; the settings below make the sweep again as a preset file.",
        )
    )
    revision = tags.get("git_revision", "")
    dirty = (
        "Files differed from the commit when the sweep ran, so the commit alone may not give the same numbers.",
    )
    commit = revision.removesuffix("-dirty")
    checkout = [f"git checkout {commit}"] if re.fullmatch("[0-9a-f]{7,40}", commit) else []
    code = ("\n".join([*checkout, command]),) if command else ()
    again = Section(
        "To make it again", dirty if commit != revision else (), sheets, code=code, missing=missing
    )
    settings = files.read(comparison.run_id, "config.yaml")
    if settings is None:
        return again, Section("All settings", missing=("The sweep's config.yaml can't be read.",))
    space = [
        f"# {key.removeprefix('space.')}: {value}"
        for key, value in comparison.params.items()
        if key.startswith("space.")
    ]
    variants = [
        f"# {key.replace('.', ' ', 1)}: {value}"
        for key, value in comparison.params.items()
        if key.startswith("variant.")
    ]
    varied = ["# What the sweep varied:", *space, *variants, ""] if space else []
    text = "\n".join([*varied, settings.decode(errors="replace").rstrip()])
    return again, Section("All settings", code=(without_passwords(text),), folded=True)


def runs(comparison: Comparison) -> Section:
    """By what name each trial's student can be had."""
    text = "beamclip evaluate run:ID probes a trial's student again; student.init=run:ID starts another from it."
    lines = [
        Line(
            "best" if row is comparison.best else "trial",
            (row.name, f"run:{row.run_id}", row.status),
        )
        for row in comparison.trials
    ]
    missing = () if lines else ("The sweep has no trials.",)
    return Section(
        "Runs",
        (text,),
        (Sheet("", ("trial", "student", "status"), tuple(lines), 3),) if lines else (),
        missing=missing,
    )


def _keys(comparison: Comparison) -> dict[str, str]:
    """What the trials were made from, by keys that change with images, weights and prompts, where names may stay."""
    shown = {
        "packed images, by key": "data_key",
        "teacher, by key": "teacher_fingerprint",
        "anchors, by key": "anchors_hash",
    }
    found = {
        name: sorted({row.tags[tag] for row in comparison.trials if tag in row.tags})
        for name, tag in shown.items()
    }
    return {name: _few(keys) for name, keys in found.items() if keys}


def _few(keys: list[str]) -> str:
    return ", ".join(keys) if len(keys) <= _EXAMPLES else f"{len(keys)} different ones"


def _facts(tags: Mapping[str, str]) -> dict[str, str]:
    """What is shown -> the tag that has it."""
    known = {
        "git revision": "git_revision",
        "data": "dataset",
        "teacher": "teacher",
        "student": "student",
        "method": "method",
    }
    return known | {
        f"version of {tag.removeprefix('version.')}": tag
        for tag in sorted(tags)
        if tag.startswith("version.")
    }

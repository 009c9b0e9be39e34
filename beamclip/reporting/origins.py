"""Build the report's sections on how choices were made, data problems, reproduction and runs."""

import re
from collections import defaultdict

from beamclip.config.provenance import without_passwords
from beamclip.data import PackedImages
from beamclip.reporting.comparison import Comparison
from beamclip.reporting.groups import SEED
from beamclip.reporting.page import Section
from beamclip.reporting.significance import compared_over_seeds
from beamclip.reporting.tables import ReportTable, TableRow
from beamclip.tracking import Artifacts

# At most so many rows, examples in a row, and keys of the same kind are listed.
_MAX_REASONS = 20
_MAX_EXAMPLES = 3
_MAX_KEYS = 3


def selection_section(comparison: Comparison) -> Section:
    """Explain on which data choices were made, and what the intervals cover."""
    seeds = {row.settings[SEED] for row in comparison.trials if SEED in row.settings}
    # Seeds are texts: by length first, so that 10 comes after 9.
    ordered_seeds = sorted(seeds, key=lambda seed: (len(seed), seed))
    text = [
        (
            f"The best settings were chosen on {comparison.metric}. All choices inside a probe "
            "were made on val as well, which is held out of train."
        ),
        "Test was evaluated once per trial, after its probe was chosen; no choice depends on it.",
    ]
    if compared_over_seeds(comparison):
        text += [
            _seeds_sentence(comparison, ordered_seeds),
            (
                "Intervals over seeds are Student's t at 95 %. They cover the student's first "
                "weights and the order of images, but neither the choice of test images nor "
                "another split of train."
            ),
            (
                "Differences from the best are tested by Welch's t-test over seeds with Holm's "
                "correction at 5 %."
            ),
            (
                "A group with lucky seeds is better on val and on test, so the mean of the best "
                "one is somewhat too high. To quote it, train these settings again with other "
                "seeds."
            ),
        ]
    else:
        seed = ", ".join(ordered_seeds) or comparison.params.get("seed", "0")
        text += [
            (
                f"One seed ({seed}) a trial: intervals are at 95 % over test images; another seed "
                "may differ by more."
            ),
            (
                "Differences from the best are tested over test images, unpaired (Newcombe), with "
                "Holm's correction at 5 %."
            ),
        ]
    return Section("How choices were made", tuple(text))


def _seeds_sentence(comparison: Comparison, seeds: list[str]) -> str:
    """Return a sentence on which seeds were planned, and how many groups lack one."""
    planned = f"The seeds {', '.join(seeds)} were planned for every group"
    incomplete = 0
    for group in comparison.groups:
        if len(group.metric_values(comparison.metric)) < len(seeds):
            incomplete += 1
    if not incomplete:
        return f"{planned}, and all have results."
    return (
        f"{planned}; {incomplete} of {len(comparison.groups)} lack the result of one or more "
        "and are not compared with the best."
    )


def data_problems_section(packed: PackedImages | None, reason: str) -> Section:
    """List the images that were left out when they were packed, and why.

    Args:
        packed: the packed images of the trials; None if they can't be read.
        reason: why they can't be read, as a sentence.
    """
    title = "Data problems"
    if packed is None:
        return Section(title, missing=(reason,))
    flat = packed.flat
    flat_text = []
    if flat:
        flat_text.append(
            f"{len(flat):,} images are nearly one color, such as {flat[0]}; flat.csv of the packed "
            "store has their names."
        )
    if not packed.bad:
        if not flat:
            return Section(title, (f"None: all {len(packed):,} images could be read.",))
        return Section(title, (f"All {len(packed):,} images could be read.", *flat_text))
    names_by_reason: dict[str, list[str]] = defaultdict(list)
    for name, problem in packed.bad:
        names_by_reason[problem].append(name)
    most_frequent = sorted(names_by_reason.items(), key=lambda item: -len(item[1]))
    rows = []
    for problem, names in most_frequent[:_MAX_REASONS]:
        examples = ", ".join(names[:_MAX_EXAMPLES])
        rows.append(TableRow("trial", (problem, examples, str(len(names)))))
    total = len(packed) + len(packed.bad)
    text = [f"{len(packed.bad):,} of {total:,} images could not be read and were left out."]
    if len(most_frequent) > _MAX_REASONS:
        others = len(most_frequent) - _MAX_REASONS
        text.append(f"{others} rarer reasons are in bad.csv of the packed store.")
    text += flat_text
    table = ReportTable("", ("reason", "for example", "images"), tuple(rows), 2)
    return Section(title, tuple(text), tables=(table,))


def reproduction_sections(comparison: Comparison, files: Artifacts) -> tuple[Section, Section]:
    """Show the command and versions that reproduce the sweep, and, collapsed, all settings.

    Args:
        comparison: the sweep.
        files: artifacts of the sweep's run in MLflow.
    """
    return _command_section(comparison), _settings_section(comparison, files)


def _command_section(comparison: Comparison) -> Section:
    tags = comparison.tags

    # A table of names, versions and content keys.
    shown_tags = {
        "git revision": "git_revision",
        "data": "dataset",
        "teacher": "teacher",
        "student": "student",
        "method": "method",
    }
    for tag in sorted(tags):
        if tag.startswith("version."):
            shown_tags[f"version of {tag.removeprefix('version.')}"] = tag
    facts = {label: tags.get(tag, "not recorded") for label, tag in shown_tags.items()}
    facts |= _content_keys(comparison)
    rows = tuple(TableRow("trial", pair) for pair in facts.items())
    table = ReportTable("", ("what", "value"), rows, 2)

    # A warning if the working tree had changes: `git describe` then appends "-dirty".
    revision = tags.get("git_revision", "")
    commit = revision.removesuffix("-dirty")
    text = []
    if commit != revision:
        text.append(
            "Files differed from the commit when the sweep ran, so the commit alone may not give "
            "the same numbers."
        )

    # The command line, after a checkout of the commit if it is known.
    command = tags.get("beamclip.command")
    code = []
    missing = []
    if command:
        lines = [command]
        if re.fullmatch("[0-9a-f]{7,40}", commit):
            lines.insert(0, f"git checkout {commit}")
        code.append("\n".join(lines))
    else:
        missing.append(
            "The command line was not recorded. To run the sweep again, save the settings below "
            "as a preset file."
        )
    return Section(
        "How to reproduce",
        tuple(text),
        tables=(table,),
        code=tuple(code),
        missing=tuple(missing),
    )


def _content_keys(comparison: Comparison) -> dict[str, str]:
    """Return the keys of the packed images, teachers and anchors that the trials used, by label.

    A key changes with the images, weights or prompts, even if their names stay the same.
    """
    key_tags = {
        "packed images, by key": "data_key",
        "teacher, by key": "teacher_fingerprint",
        "anchors, by key": "anchors_hash",
    }
    shown = {}
    for label, tag in key_tags.items():
        keys = sorted({row.tags[tag] for row in comparison.trials if tag in row.tags})
        if len(keys) > _MAX_KEYS:
            shown[label] = f"{len(keys)} different ones"
        elif keys:
            shown[label] = ", ".join(keys)
    return shown


def _settings_section(comparison: Comparison, files: Artifacts) -> Section:
    """Show the sweep's settings as YAML, with its search space as comments above."""
    settings = files.read(comparison.run_id, "config.yaml")
    if settings is None:
        return Section("All settings", missing=("The sweep's config.yaml can't be read.",))
    space = []
    variants = []
    for key, value in comparison.params.items():
        if key.startswith("space."):
            space.append(f"# {key.removeprefix('space.')}: {value}")
        elif key.startswith("variant."):
            variants.append(f"# {key.replace('.', ' ', 1)}: {value}")
    lines = ["# The search space:", *space, *variants, ""] if space else []
    lines.append(settings.decode(errors="replace").rstrip())
    text = without_passwords("\n".join(lines))
    return Section("All settings", code=(text,), collapsed=True)


def runs_section(comparison: Comparison) -> Section:
    """List the trials, and the name (`run:ID`) by which other commands find each one's student."""
    if not comparison.trials:
        return Section("Runs", missing=("The sweep has no trials.",))
    text = (
        "beamclip evaluate run:ID probes a trial's student again; student.init=run:ID starts "
        "another one from it."
    )
    rows = []
    for row in comparison.trials:
        kind = "best" if row is comparison.best else "trial"
        rows.append(TableRow(kind, (row.name, f"run:{row.run_id}", row.status)))
    table = ReportTable("", ("trial", "student", "status"), tuple(rows), 3)
    return Section("Runs", (text,), tables=(table,))

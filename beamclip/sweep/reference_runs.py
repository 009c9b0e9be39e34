"""What trials stand beside, the teacher itself and the untrained student, and a warning where the teacher knows next to nothing."""

import json
from collections.abc import Callable
from typing import Any

from beamclip.config import Experiment, cell, planned_values
from beamclip.stores.paths import asset_key
from beamclip.stores.sweep_record import SweepRecord

_WARNING = """beamclip: WARNING: the teacher hardly knows these classes by these names; what students learn from it may be noise.
{cases}
  Try other class names (data.class_names), another prompt set (anchors.prompt_set) or another teacher (teacher.model);
  beamclip anchors --explain says what each class is called, and why."""


def write_references(tracker: Any, record: SweepRecord, say: Callable[[str], None]) -> None:
    """Write both as runs beside the trials: the teacher once for each teacher and prompt set that the sweep varies. Beside a teacher
    stands how many images were encoded before this sweep, by all of its teachers.

    Where a teacher is near chance on val, say so, loudly, and tag the sweep with it.
    """
    for tags, facts in _teachers(record):
        accuracy = {
            f"zero_shot/{name}_top1": facts[f"teacher/zero_shot_{name}_top1"]
            for name in ("val", "test")
        }
        tracker.reference(
            "teacher",
            tags,
            accuracy | {"teacher/images_encoded": facts["teacher/images_encoded_in_all"]},
        )
    if record.untrained:
        tracker.reference(
            "untrained",
            {},
            {
                key: value
                for key, value in record.untrained.items()
                if not key.startswith("zero_shot/")
            },
        )
    if cases := _cases_near_chance(record):
        say(_WARNING.format(cases="\n".join(f"  {case}" for case in cases)))
        tracker.client.set_tag(
            tracker.run_id, "beamclip.teacher_near_chance", "; ".join(cases)[:_TAG_LENGTH]
        )


def demo_elsewhere(experiment: Experiment) -> str | None:
    """What to say to whoever forgot --preset beside --data: the demo's teacher has seen nothing but its own digits."""
    if experiment.teacher.model != "demo" or experiment.data.source == "demo":
        return None
    others = (
        "a preset with a CLIP (--preset cifar10, imagenette …) or a teacher (--set teacher.model=…)"
    )
    return f"teacher.model is demo, which knows nothing but the demo's own digits; give {others} for other images"


def _teachers(record: SweepRecord) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """What tells each teacher's row from the others', and its facts."""
    cells, found = _cells(record), dict[tuple[tuple[str, str], ...], dict[str, Any]]()
    varied = {key.split(".")[0] for key in record.sweep.varied}
    for key, text in record.assets.items():
        facts = json.loads(text)["facts"]
        tags = {"teacher": facts["teacher"]} if "teacher" in varied else {}
        tags |= (
            {"prompt_set": cells[key].anchors.prompt_set}
            if "anchors.prompt_set" in record.sweep.varied
            else {}
        )
        found.setdefault(tuple(tags.items()), facts)
    return [(dict(tags), facts) for tags, facts in found.items()]


def _cells(record: SweepRecord) -> dict[str, Experiment]:
    """The cells of a sweep by the stores they read."""
    return {
        asset_key(one): one
        for one in (
            cell(record.sweep, record.base, values) for values in planned_values(record.sweep)
        )
    }


_TAG_LENGTH = 5000  # MLflow takes 8000, older servers 5000


def near_chance(low: float, classes: int) -> bool:
    """Whether somebody whose accuracy has this lower end of its 95 % interval (in per cent) may as well be guessing.

    Guessing gets one in `classes`. Up to half as much again counts as near, but no more than ten points: 60 % of two classes,
    15 % of ten, 0.15 % of a thousand. The interval's lower end is what the accuracy is sure to be above; with few images in val that
    is little, so a good teacher may be suspected, but a bad one is not overlooked.
    """
    chance = 100 / classes
    return low <= chance + min(chance / 2, 10)


def _cases_near_chance(record: SweepRecord) -> list[str]:
    """A line for each teacher and prompt set of the sweep that is near chance on val."""
    cells = _cells(record)
    found = {key: json.loads(text)["facts"] for key, text in record.assets.items()}
    near = {
        key: facts
        for key, facts in found.items()
        if near_chance(facts["teacher/zero_shot_val_top1_low"], facts["classes"])
    }
    return list(
        dict.fromkeys(_case(facts, cells[key].anchors.prompt_set) for key, facts in near.items())
    )


def _case(facts: dict[str, Any], prompt_set: str) -> str:
    right, classes = facts["teacher/zero_shot_val_top1"], facts["classes"]
    who = f"{facts['teacher']} with prompt set {prompt_set}"
    return f"{who}: {right:.4g} % of val right; guessing among {classes} gets {100 / classes:.4g} %"

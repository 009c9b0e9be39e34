"""Write the runs that trials are compared with: the teacher itself, and the untrained student.

The sweep's run is tagged if a teacher hardly knows the classes.
"""

from typing import Any, Literal, Protocol

from beamclip.config import Experiment, planned_values, trial_experiment
from beamclip.config.metrics import near_chance
from beamclip.stores.paths import asset_key
from beamclip.stores.sweep_record import SweepRecord
from beamclip.sweep.asset_facts import AssetFacts

# MLflow accepts tags of 8000 characters, older servers of 5000.
_MAX_TAG_LENGTH = 5000


class ReferenceTracker(Protocol):
    """The part of `beamclip.tracking.SweepTracker` that records reference runs.

    A protocol, so that this module does not import MLflow.
    """

    client: Any
    run_id: str

    def log_reference(
        self,
        kind: Literal["untrained", "teacher"],
        tags: dict[str, str],
        metrics: dict[str, float],
    ) -> str:
        """Write a reference run, and return its id."""


def write_references(tracker: ReferenceTracker, record: SweepRecord) -> None:
    """Write the teacher and the untrained student as runs next to the trials.

    If the sweep varies teachers or prompt sets, each of them gets a teacher run. The metric
    `teacher/images_encoded` of a teacher run is the number of images that all teachers of the
    sweep encoded before the trials. If a teacher is near chance on val, the sweep's run gets the
    tag `beamclip.teacher_near_chance`.

    Args:
        tracker: writes the runs of the sweep.
        record: the sweep, after its stores were built.
    """
    for tags, facts in _teachers(record):
        metrics = {
            "zero_shot/val_top1": facts.zero_shot_val_top1,
            "zero_shot/test_top1": facts.zero_shot_test_top1,
            "teacher/images_encoded": float(facts.images_encoded_in_all),
        }
        tracker.log_reference("teacher", tags, metrics)
    if record.untrained:
        # The projector of an untrained student has not learned to embed into the teacher's space,
        # so its zero-shot accuracy means nothing.
        metrics = {
            key: value
            for key, value in record.untrained.items()
            if not key.startswith("zero_shot/")
        }
        tracker.log_reference("untrained", {}, metrics)
    if cases := _near_chance_cases(record):
        text = "; ".join(cases)[:_MAX_TAG_LENGTH]
        tracker.client.set_tag(tracker.run_id, "beamclip.teacher_near_chance", text)


def demo_teacher_warning(experiment: Experiment) -> str | None:
    """Return a warning if the demo's teacher is used with other data, else None.

    This happens if --data is given without --preset, since the default preset is the demo. Its
    teacher was trained on the demo's digits alone.
    """
    if experiment.teacher.model != "demo" or experiment.data.source == "demo":
        return None
    return (
        "teacher.model is demo, which knows nothing but the demo's own digits; "
        "for other images give a preset with a CLIP (--preset cifar10, imagenette …) "
        "or a teacher (--set teacher.model=…)"
    )


def _teachers(record: SweepRecord) -> list[tuple[dict[str, str], AssetFacts]]:
    """Return the teachers of the sweep: the tags in which each differs, and its facts."""
    varied = record.sweep.varied
    varies_teacher = any(key.split(".")[0] == "teacher" for key in varied)
    experiments = _experiments_by_assets(record)
    teachers: dict[tuple[tuple[str, str], ...], AssetFacts] = {}
    for key, text in record.assets.items():
        facts = AssetFacts(text)
        tags = {}
        if varies_teacher:
            tags["teacher"] = facts.teacher
        if "anchors.prompt_set" in varied:
            tags["prompt_set"] = experiments[key].anchors.prompt_set
        # Other settings, such as the views, also lead to their own stores, but not to another
        # teacher: the first stores of each teacher and prompt set stand for all.
        teachers.setdefault(tuple(tags.items()), facts)
    return [(dict(tags), facts) for tags, facts in teachers.items()]


def _experiments_by_assets(record: SweepRecord) -> dict[str, Experiment]:
    """Return one experiment of the sweep for each asset key; any will do, they share the stores."""
    experiments = {}
    for values in planned_values(record.sweep):
        experiment = trial_experiment(record.sweep, record.base, values)
        experiments[asset_key(experiment)] = experiment
    return experiments


def _near_chance_cases(record: SweepRecord) -> list[str]:
    """Return a line for each teacher and prompt set of the sweep that is near chance on val."""
    experiments = _experiments_by_assets(record)
    cases = []
    for key, text in record.assets.items():
        facts = AssetFacts(text)
        if near_chance(facts.zero_shot_val_top1_low, facts.classes):
            case = (
                f"{facts.teacher} with prompt set {experiments[key].anchors.prompt_set}: "
                f"{facts.zero_shot_val_top1:.4g} % of val right; "
                f"guessing among {facts.classes} gets {100 / facts.classes:.4g} %"
            )
            cases.append(case)
    # Assets that differ in other settings give the same line.
    return list(dict.fromkeys(cases))

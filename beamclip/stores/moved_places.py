"""Find inputs of a sweep that were moved to another place after the sweep began.

The settings in a sweep's record keep the first places, because keys of stores and trials are made
from them. The record also lists the new places (`SweepRecord.moved`), and they are put into the
settings only where inputs are read.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from beamclip.config import Experiment, TowerConfig, UserError, with_values
from beamclip.config.provenance import without_passwords
from beamclip.stores.absolute import absolute_value
from beamclip.stores.paths import LOCAL_MODEL

Places = Mapping[str, Mapping[str, str]]
"""Setting -> first place -> place where the input is now. `teacher.model` and `teacher.pretrained`
are used for all teachers."""

NORMALIZATION = ("teacher.mean", "teacher.std", "teacher.interpolation")
"""Settings that a sweep of an older version may lack for a teacher that needs them now. Their value
is kept as JSON under the first place "", because the setting was not set."""

MOVABLE = (
    "data.path",
    "data.class_names",
    "data.keep",
    "anchors.vocabulary",
    "teacher.model",
    "teacher.pretrained",
    "teacher.others",
    *NORMALIZATION,
)
"""Settings of which `--resume` takes a new place, or a value that the sweep lacks."""


def places_in(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """Yield setting and place of each input that the settings name: paths and URLs, not names."""
    data = experiment.data
    settings = (
        # The embedded demo reads no folder.
        ("data.path", None if data.source == "demo" else data.path),
        ("data.class_names", data.class_names),
        ("data.keep", data.keep),
        ("anchors.vocabulary", experiment.anchors.vocabulary),
    )
    for key, value in settings:
        # A vocabulary may be a word; the paths in a record are absolute.
        if value and (key != "anchors.vocabulary" or "/" in value):
            yield key, value
    for tower in experiment.teacher.all():
        if tower.model.startswith(LOCAL_MODEL):
            yield "teacher.model", tower.model
        if tower.pretrained and "/" in tower.pretrained:
            yield "teacher.pretrained", tower.pretrained


def with_moved_places(experiment: Experiment, moved: Places) -> Experiment:
    """Return an experiment with the new places of inputs that were moved.

    Args:
        experiment: settings with the first places.
        moved: the new places.
    """

    def place(key: str, value: Any) -> Any:
        return moved.get(key, {}).get(str(value), value)

    if not moved:
        return experiment

    normalization = {
        key.removeprefix("teacher."): json.loads(moved[key][""])
        for key in NORMALIZATION
        if key in moved
    }

    def tower_values(tower: TowerConfig) -> dict[str, Any]:
        unset = {
            name: value for name, value in normalization.items() if getattr(tower, name) is None
        }
        return {
            "model": place("teacher.model", tower.model),
            "pretrained": place("teacher.pretrained", tower.pretrained),
        } | unset

    others = [
        other.model_dump(mode="json") | tower_values(other) for other in experiment.teacher.others
    ]
    values = {f"teacher.{name}": value for name, value in tower_values(experiment.teacher).items()}
    values |= {
        "data.path": place("data.path", experiment.data.path),
        "data.class_names": place("data.class_names", experiment.data.class_names),
        "data.keep": place("data.keep", experiment.data.keep),
        "anchors.vocabulary": place("anchors.vocabulary", experiment.anchors.vocabulary),
        "teacher.others": others,
    }
    return with_values(experiment, values)


def add_moved_places(
    trials: list[Experiment], moved: Places, given: Mapping[str, Any]
) -> dict[str, dict[str, str]]:
    """Return the moved places of a sweep with those that a resume names.

    Args:
        trials: experiments of the sweep's trials, with the first places.
        moved: places that earlier resumes named.
        given: new places by setting; a relative path is made absolute.

    Raises:
        UserError: no trial has a place for the setting, or it is not clear which one was moved.
    """
    result = {key: dict(places) for key, places in moved.items()}
    for key, value in given.items():
        if key == "teacher.others":
            for setting, first, now in _pairs_of_others(trials, value):
                result.setdefault(setting, {})[first] = _new_place(setting, now)
        elif key in NORMALIZATION:
            _check_unset(trials, key, value)
            result[key] = {"": json.dumps(value)}
        else:
            place = _new_place(key, value)
            result.setdefault(key, {})[_moved_place(trials, moved, key)] = place
    # An input that is back in its first place was not moved.
    kept = {
        key: {first: now for first, now in places.items() if first != now}
        for key, places in result.items()
    }
    return {key: places for key, places in kept.items() if places}


def _check_unset(trials: list[Experiment], key: str, value: Any) -> None:
    """Raise UserError if a value can't be used, or all teachers of a sweep have one already."""
    if value is None:
        raise UserError(f"--set {key} has no value after --resume; write one or leave it out")
    # Only for its validation.
    with_values(trials[0], {key: value})
    name = key.removeprefix("teacher.")
    towers = [tower for trial in trials for tower in trial.teacher.all()]
    if all(getattr(tower, name) is not None for tower in towers):
        raise UserError(
            f"--resume can't take another {key}: a resumed sweep keeps its own; leave it out"
        )


def _new_place(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise UserError(f"{option_of(key)} has no path after --resume; write where the input is")
    if key == "teacher.model" and not value.startswith(LOCAL_MODEL):
        raise UserError(
            f"teacher.model {value} is not the path of a teacher that was moved; write "
            f"{LOCAL_MODEL}FOLDER"
        )
    return str(absolute_value(key, value))


def _moved_place(trials: list[Experiment], moved: Places, key: str) -> str:
    """Return the first place of the input that was moved: the only one, or the only missing one."""
    places = list(
        dict.fromkeys(
            place for trial in trials for setting, place in places_in(trial) if setting == key
        )
    )
    if not places:
        raise UserError(
            f"--resume can't take another {key}, which names no file or folder in this sweep; "
            f"leave {option_of(key)} out"
        )
    if len(places) == 1:
        return places[0]
    missing = [place for place in places if is_missing(key, moved.get(key, {}).get(place, place))]
    if len(missing) != 1:
        listed = ", ".join(map(without_passwords, missing or places))
        problem = "are all missing" if missing else "are all there"
        advice = "put all but one back, or links to them" if missing else "leave it out"
        raise UserError(
            f"{option_of(key)} gives one path, but the trials' {listed} {problem}; {advice}"
        )
    return missing[0]


def _pairs_of_others(trials: list[Experiment], value: Any) -> list[tuple[str, str, Any]]:
    """Return setting, first place and new place of each further teacher that was moved."""
    lists = list(dict.fromkeys(trial.teacher.others for trial in trials if trial.teacher.others))
    is_list = isinstance(value, list) and all(isinstance(item, dict) for item in value)
    if len(lists) != 1 or not is_list or len(value) != len(lists[0]):
        raise UserError(
            "--set teacher.others after --resume needs the sweep's further teachers, all in their "
            "order, each as {model: local-dir:FOLDER}"
        )
    pairs = []
    for number, (other, item) in enumerate(zip(lists[0], value, strict=True)):
        settings = other.model_dump(mode="json")
        for name, new in item.items():
            if new == settings.get(name):
                continue
            is_place = name == "pretrained" or str(settings.get(name)).startswith(LOCAL_MODEL)
            if name not in ("model", "pretrained") or not is_place:
                raise UserError(
                    f"teacher.others.{number}.{name} is not a path, and a resumed sweep keeps its "
                    "other settings; leave it out"
                )
            pairs.append((f"teacher.{name}", str(settings[name]), new))
    return pairs


def option_of(key: str) -> str:
    """Return the option that names the place of an input."""
    return "--data" if key == "data.path" else f"--set {key}"


def is_missing(key: str, place: str) -> bool:
    """Return True if a place on this machine does not exist. URLs are not looked up."""
    path = place.removeprefix(LOCAL_MODEL) if key == "teacher.model" else place
    return "://" not in path and not Path(path).expanduser().exists()


def missing_place_message(key: str, place: str) -> str:
    """Return the message that an input of a resumed sweep is gone, with the option to give."""
    examples = {
        "data.path": "--data DIR",
        "teacher.model": f"--set teacher.model={LOCAL_MODEL}FOLDER",
    }
    example = examples.get(key, f"--set {key}=FILE")
    path = place.removeprefix(LOCAL_MODEL)
    return f"{key} {path} does not exist; if it was moved, add {example} to --resume"

"""Check the folders of images and teachers before Ray starts, if this machine reads them."""

from pathlib import Path

from beamclip.config import Experiment, Sweep, UserError, planned_values, trial_experiment
from beamclip.data.sources.open import open_folder
from beamclip.stores.moved_places import (
    Places,
    is_missing,
    missing_place_message,
    places_in,
    with_moved_places,
)
from beamclip.stores.paths import LOCAL_MODEL, check_model_folder

_PREFIXES = ("anchors.", "data.", "teacher.", "variant")
"""Prefixes of the keys of a space that may decide which files and folders a trial reads."""


def check_local_paths(sweep: Sweep, base: Experiment, moved: Places | None = None) -> None:
    """Check that the folders of images and teachers of all trials exist.

    Nothing is checked if there is a Ray cluster to join, which may have folders that this machine
    lacks; its preparation actor checks them. URLs are also left to it.

    Args:
        sweep: the sweep.
        base: the experiment that its trials vary.
        moved: to resume a sweep, its inputs that were moved; the message then names the option
            for the new place of an input that is missing. None for a new sweep.

    Raises:
        UserError: a folder does not exist, or its path is invalid.
    """
    seen = set()
    try:
        for values in planned_values(sweep):
            # A sweep may have thousands of trials, of which few differ in their inputs.
            inputs = tuple(value for key, value in values.items() if key.startswith(_PREFIXES))
            if inputs in seen:
                continue
            seen.add(inputs)
            experiment = with_moved_places(trial_experiment(sweep, base, values), moved or {})
            if moved is not None:
                _check_places(experiment)
            _check_folders(experiment)
    except UserError:
        # Asked only now, because it imports ray.
        from beamclip.distributed.cluster import starts_locally

        if starts_locally():
            raise


def _check_places(experiment: Experiment) -> None:
    for key, place in places_in(experiment):
        # torchvision makes the folder of a download.
        if is_missing(key, place) and not (key == "data.path" and experiment.data.download):
            raise UserError(missing_place_message(key, place))


def _check_folders(experiment: Experiment) -> None:
    path = experiment.data.path
    if path is not None and "://" not in path:
        open_folder(experiment.data)
    for teacher in experiment.teacher.all():
        if not teacher.model.startswith(LOCAL_MODEL):
            continue
        key = "teacher.model" if teacher is experiment.teacher else "teacher.others"
        folder = Path(teacher.model.removeprefix(LOCAL_MODEL))
        check_model_folder(key, folder)

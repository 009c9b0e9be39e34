"""Check the folders of images and teachers before Ray starts, if this machine reads them."""

from pathlib import Path

from beamclip.config import Experiment, Sweep, UserError, planned_values, trial_experiment
from beamclip.data.sources.open import open_folder
from beamclip.stores.paths import LOCAL_MODEL, check_model_folder

_PREFIXES = ("data.", "teacher.", "variant")
"""Prefixes of the keys of a space that may decide which folders a trial reads."""


def check_local_paths(sweep: Sweep, base: Experiment) -> None:
    """Check that the folders of images and teachers of all trials exist.

    Nothing is checked if there is a Ray cluster to join, which may have folders that this machine
    lacks; its preparation actor checks them. URLs are also left to it.

    Raises:
        UserError: a folder does not exist, or its path is invalid.
    """
    seen = set()
    try:
        for values in planned_values(sweep):
            # A sweep may have thousands of trials, of which few differ in their folders.
            folders = tuple(value for key, value in values.items() if key.startswith(_PREFIXES))
            if folders not in seen:
                seen.add(folders)
                _check_folders(trial_experiment(sweep, base, values))
    except UserError:
        # Asked only now, because it imports ray.
        from beamclip.distributed.cluster import starts_locally

        if starts_locally():
            raise


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

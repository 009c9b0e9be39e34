"""Fetch students of earlier runs, to start from or to evaluate; `run:ID` names the MLflow run."""

from collections.abc import Mapping
from typing import Any

import yaml

from beamclip.config import Choice, Experiment, Sweep, UserError, validate, with_values
from beamclip.config.overrides import assign
from beamclip.stores.paths import stores_root, tracking_uri

_PREFIX = "run:"
_INIT = "student.init"
_STORAGE_SECTIONS = ("storage.", "tracking.")


def fetch_initial_students(sweep: Sweep, base: Experiment) -> tuple[Sweep, Experiment]:
    """Replace every `student.init=run:ID` by the path of the downloaded student.

    The driver does this, so that workers need no tracking server.

    Args:
        sweep: its space and variants may set `student.init`.
        base: experiment that trials vary.

    Returns:
        Sweep and base, with paths.

    Raises:
        UserError: the tracking server has no such run, or the run has no student.
    """
    paths = {
        init: fetch_student_of_run(init, base)
        for init in _initial_students(sweep, base)
        if init.startswith(_PREFIX)
    }
    if not paths:
        return sweep, base

    space = dict(sweep.space)
    dimension = space.get(_INIT)
    if isinstance(dimension, Choice):
        values = tuple(paths.get(str(value), value) for value in dimension.values)
        space[_INIT] = Choice(values=values)

    variants = {}
    for name, settings in sweep.variants.items():
        variants[name] = dict(settings)
        variant_init = str(settings.get(_INIT))
        if variant_init in paths:
            variants[name][_INIT] = paths[variant_init]

    sweep = sweep.model_copy(update={"space": space, "variants": variants})
    init = base.student.init
    return sweep, with_values(base, {_INIT: paths.get(init, init)})


def _initial_students(sweep: Sweep, base: Experiment) -> list[str]:
    """Return every value of `student.init` in the base, the space and the variants."""
    inits: list[Any] = [base.student.init]
    dimension = sweep.space.get(_INIT)
    if isinstance(dimension, Choice):
        inits += dimension.values
    inits += [settings.get(_INIT, "") for settings in sweep.variants.values()]
    return [str(init) for init in inits]


def fetch_student_of_run(init: str, base: Experiment) -> str:
    """Download the student of `run:ID` to the folder of all stores, unless it is there already.

    All nodes of a cluster see that folder.

    Args:
        init: `run:ID`.
        base: its storage and tracking settings are used.

    Returns:
        Path of the student's file.

    Raises:
        UserError: the tracking server has no such run, or the run has no student.
    """
    from beamclip.tracking import fetch_student

    run_id = _run_id(init)
    folder = stores_root(base) / "starts" / run_id
    return str(fetch_student(tracking_uri(base), run_id, folder))


def experiment_of_run(init: str, values: Mapping[str, Any]) -> Experiment | None:
    """Return the experiment that a run was trained with, with some settings changed.

    Storage and tracking are never taken from the run, which may come from another machine.

    Args:
        init: `run:ID`.
        values: dotted settings that override the run's. Only these set storage and tracking.

    Returns:
        The experiment; None if the run has no settings.

    Raises:
        UserError: the tracking server has no such run, or a setting is wrong.
    """
    from beamclip.tracking import fetch_settings

    # Find the tracking server first. The other values are validated together with the run's
    # settings below: they may not fit the defaults.
    storage_values = {
        key: value for key, value in values.items() if key.startswith(_STORAGE_SECTIONS)
    }
    given = validate(Experiment, assign({}, storage_values))
    text = fetch_settings(tracking_uri(given), _run_id(init))
    if text is None:
        return None
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError:
        settings = None
    if not isinstance(settings, dict):
        raise UserError(
            f"config.yaml of {init} has no settings; choose the settings to evaluate with by "
            "--preset"
        )
    overrides = {
        "storage.path": given.storage.path,
        "storage.cache": given.storage.cache,
        "tracking.uri": given.tracking.uri,
    }
    return validate(Experiment, assign(settings, {**overrides, **values}))


def _run_id(init: str) -> str:
    """Return the id in `run:ID`. It becomes the name of a folder, so it must be alphanumeric."""
    run_id = init.removeprefix(_PREFIX)
    if not run_id.isalnum():
        raise UserError(
            f"{init} names no MLflow run; write {_PREFIX}ID with the id that MLflow shows"
        )
    return run_id

"""Students of earlier runs, to start from or to evaluate, named `run:ID` by their MLflow run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from beamclip.config import Choice, Experiment, Sweep, UserError, validate, with_values
from beamclip.config.overrides import assign
from beamclip.stores.paths import stores_root, tracking_uri

_PREFIX = "run:"
_KEY = "student.init"
_STORAGE_SECTIONS = ("storage.", "tracking.")


def fetch_initial_students(sweep: Sweep, base: Experiment) -> tuple[Sweep, Experiment]:
    """Replace every `student.init=run:ID` by the path of the downloaded student.

    Workers then need no tracking server.

    Returns:
        The same sweep and base experiment with paths.

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
    if isinstance(dimension := space.get(_KEY), Choice):
        values = tuple(paths.get(str(value), value) for value in dimension.values)
        space[_KEY] = Choice(values=values)
    variants = {}
    for name, settings in sweep.variants.items():
        variants[name] = dict(settings)
        if str(settings.get(_KEY)) in paths:
            variants[name][_KEY] = paths[str(settings[_KEY])]
    init = base.student.init
    return (
        sweep.model_copy(update={"space": space, "variants": variants}),
        with_values(base, {_KEY: paths.get(init, init)}),
    )


def _initial_students(sweep: Sweep, base: Experiment) -> list[str]:
    inits: list[Any] = [base.student.init]
    dimension = sweep.space.get(_KEY)
    if isinstance(dimension, Choice):
        inits += dimension.values
    inits += [settings.get(_KEY, "") for settings in sweep.variants.values()]
    return [str(init) for init in inits]


def fetch_student_of_run(init: str, base: Experiment) -> str:
    """Download the student of `run:ID`, once, to the stores' folder, which all nodes share.

    Returns:
        Path of the student's file.

    Raises:
        UserError: the tracking server has no such run, or the run has no student.
    """
    from beamclip.tracking import fetch_student

    run_id = _run_id(init)
    folder = Path(stores_root(base)) / "starts" / run_id
    return str(fetch_student(tracking_uri(base), run_id, folder))


def experiment_of_run(init: str, values: Mapping[str, Any]) -> Experiment | None:
    """Return the experiment of `run:ID`, with changed settings; None if the run has none.

    Storage and tracking are never the run's own, since it may come from another machine: only
    `values` set them.

    Args:
        init: `run:ID`.
        values: dotted settings that override the run's.

    Raises:
        UserError: the tracking server has no such run, or a value is wrong.
    """
    from beamclip.tracking import fetch_settings

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
            f"config.yaml of {init} has no settings; name those to evaluate with by --preset"
        )
    overrides = {
        "storage.path": given.storage.path,
        "storage.cache": given.storage.cache,
        "tracking.uri": given.tracking.uri,
    }
    return validate(Experiment, assign(settings, {**overrides, **values}))


def _run_id(init: str) -> str:
    run_id = init.removeprefix(_PREFIX)
    if not run_id.isalnum():
        raise UserError(
            f"{init} names no MLflow run; write {_PREFIX}ID with the id that MLflow shows"
        )
    return run_id

"""Students that runs start from, by the run that trained them: `student.init=run:ID`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from beamclip.config import Choice, Experiment, Sweep, UserError, validate, with_values
from beamclip.config.load import assign
from beamclip.stores.paths import stores_root, tracking_uri

_RUN, _KEY = "run:", "student.init"
_PLACES = ("storage.", "tracking.")


def with_starts(sweep: Sweep, base: Experiment) -> tuple[Sweep, Experiment]:
    """The same sweep and base, with every `run:ID` fetched and named by its file, so that workers need no tracking server.

    Raises:
        UserError: the tracking server holds no such run, or it kept no student.
    """
    found = {init: fetched(init, base) for init in _inits(sweep, base) if init.startswith(_RUN)}
    if not found:
        return sweep, base
    space = {
        key: _replaced(dimension, found) if key == _KEY else dimension
        for key, dimension in sweep.space.items()
    }
    variants = {name: _in_bundle(bundle, found) for name, bundle in sweep.variants.items()}
    init = base.student.init
    return sweep.model_copy(update={"space": space, "variants": variants}), with_values(
        base, {_KEY: found.get(init, init)}
    )


def _inits(sweep: Sweep, base: Experiment) -> list[str]:
    dimension = sweep.space.get(_KEY)
    listed = dimension.values if isinstance(dimension, Choice) else ()
    return [
        str(init)
        for init in (
            base.student.init,
            *listed,
            *(bundle.get(_KEY, "") for bundle in sweep.variants.values()),
        )
    ]


def _replaced(dimension: Any, found: Mapping[str, str]) -> Choice:
    return Choice(values=tuple(found.get(str(value), value) for value in dimension.values))


def _in_bundle(bundle: Mapping[str, Any], found: Mapping[str, str]) -> dict[str, Any]:
    return {
        key: found.get(str(value), value) if key == _KEY else value for key, value in bundle.items()
    }


def fetched(init: str, base: Experiment) -> str:
    """The file of the student of `run:ID`, downloaded once to where all nodes look for stores.

    Raises:
        UserError: as `with_starts`.
    """
    from beamclip.tracking import fetch_student

    run_id = _id_of(init)
    folder = Path(stores_root(base)) / "starts" / run_id
    return str(fetch_student(tracking_uri(base), run_id, folder))


def as_trained(init: str, values: Mapping[str, Any]) -> Experiment | None:
    """The experiment of the run `run:ID`, with these values over its own; None where the run kept no settings.

    Where runs and stores lie is never the run's own, which another machine may have made: only these values say it.

    Raises:
        UserError: the tracking server holds no such run, or a value is wrong.
    """
    from beamclip.tracking import fetch_settings

    given = validate(
        Experiment,
        assign({}, {key: value for key, value in values.items() if key.startswith(_PLACES)}),
    )
    text = fetch_settings(tracking_uri(given), _id_of(init))
    if text is None:
        return None
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError:
        settings = None
    if not isinstance(settings, dict):
        raise UserError(
            f"config.yaml of {init} holds no settings; name those to judge it by with --preset"
        )
    here = {
        "storage.path": given.storage.path,
        "storage.cache": given.storage.cache,
        "tracking.uri": given.tracking.uri,
    }
    return validate(Experiment, assign(settings, {**here, **values}))


def _id_of(init: str) -> str:
    run_id = init.removeprefix(_RUN)
    if not run_id.isalnum():
        raise UserError(f"{init} names no MLflow run; write {_RUN}ID with the id that MLflow shows")
    return run_id

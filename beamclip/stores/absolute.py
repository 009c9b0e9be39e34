"""Absolute paths in settings.

Trials run in other folders and with another environment than the process that starts a sweep. So
paths are made absolute before anything is sent to them, and what environment variables choose is
written into the settings.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from beamclip.config import Choice, Experiment, Sweep, UserError, with_values
from beamclip.config.objective_registry import own_files, source_of
from beamclip.config.provenance import holds_password
from beamclip.config.sweep import Dimension
from beamclip.stores.paths import (
    path_errors_as_user_error,
    storage_root,
    stores_root,
    tracking_uri,
)

_LOCAL_MODEL = "local-dir:"
_KEYWORDS = ("random", "pretrained", "data", "imagenet-1k", "imagenet-21k", "lvis")
"""Values of `student.init` and `anchors.vocabulary` that mean no file, even if one has that
name."""


def absolute_paths(sweep: Sweep, base: Experiment) -> tuple[Sweep, Experiment]:
    """Return the same sweep and base with absolute paths in the space, the variants and the base.

    Settings that the environment chooses are filled in, so that trials and `--resume` use what this
    process used. URLs stay as they are.

    Raises:
        UserError: a setting holds an invalid path.
    """
    space = {key: _absolute_dimension(key, dimension) for key, dimension in sweep.space.items()}
    variants = {name: _absolute_values(settings) for name, settings in sweep.variants.items()}
    sweep = sweep.model_copy(update={"space": space, "variants": variants})
    return sweep, _with_objective_code(sweep, with_absolute_paths(base))


def with_absolute_paths(base: Experiment) -> Experiment:
    """Return the same experiment with absolute paths, for use in another process.

    Raises:
        UserError: a setting holds an invalid path.
    """
    values = {key: _value_of(base, key) for key in _CONVERTERS}
    values = _absolute_values(values)
    values["storage.path"] = storage_root(base)
    values["storage.cache"] = str(stores_root(base))
    values["tracking.uri"] = _absolute_tracking_uri(base)
    return with_values(base, values)


def _with_objective_code(sweep: Sweep, base: Experiment) -> Experiment:
    """Return the base with the text of all users' objectives that the sweep's trials name."""
    names = [base.objective.name]
    names += [str(values.get("objective.name", "")) for values in sweep.variants.values()]
    dimension = sweep.space.get("objective.name")
    if isinstance(dimension, Choice):
        names += [str(value) for value in dimension.values]
    paths = [path for name in names for path in own_files(name)]
    if not paths:
        return base
    try:
        code = {path: source_of(path, base.objective.code) for path in paths}
    except ValueError as error:
        raise UserError(f"objective.name: {error}") from None
    return with_values(base, {"objective.code": code})


def settings_text(experiment: Experiment) -> str:
    """Return an experiment as the text of a preset file, to run it again elsewhere.

    The locations of runs, stores and results are left out.
    """
    locations = {"storage": {"path", "cache"}, "tracking": {"uri"}}
    settings = experiment.model_dump(mode="json", exclude=locations)
    return yaml.safe_dump(settings, sort_keys=False)


def _value_of(base: Experiment, key: str) -> Any:
    section, name = key.split(".")
    return base.model_dump(mode="json", include={section})[section][name]


def _absolute_dimension(key: str, dimension: Dimension) -> Dimension:
    if key not in _CONVERTERS or not isinstance(dimension, Choice):
        return dimension
    return Choice(values=tuple(_absolute_value(key, value) for value in dimension.values))


def _absolute_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _absolute_value(key, value) for key, value in values.items()}


def _absolute_value(key: str, value: Any) -> Any:
    if key not in _CONVERTERS or not value:
        return value
    with path_errors_as_user_error(key, str(value)):
        return _CONVERTERS[key](value)


def _absolute(value: Any) -> str:
    """Return an absolute path; a URL stays."""
    text = str(value)
    return text if "://" in text else str(Path(text).expanduser().absolute())


def _absolute_if_file(value: Any) -> Any:
    """Return the absolute path of a file.

    Anything else stays as it is, so that later errors name it as the user wrote it.
    """
    text = str(value)
    if text in _KEYWORDS or "://" in text or not Path(text).expanduser().is_file():
        return value
    return _absolute(text)


def _absolute_weights(value: Any) -> Any:
    """Return the absolute path of a weights file; an open_clip tag stays.

    Tags have no dots or slashes, so a file in this folder with a tag's name isn't taken for
    weights.
    """
    return _absolute_if_file(value) if "/" in str(value) or "." in str(value) else value


def _absolute_objective(value: Any) -> str:
    """Return an objective's name with absolute paths of users' files: `csm+/home/me/a.py:f`."""
    parts = []
    for part in str(value).split("+"):
        path, colon, target = part.rpartition(":")
        parts.append(f"{_absolute(path)}:{target}" if colon and path.endswith(".py") else part)
    return "+".join(parts)


def _absolute_model(value: Any) -> Any:
    text = str(value)
    if not text.startswith(_LOCAL_MODEL):
        return value
    return _LOCAL_MODEL + _absolute(text.removeprefix(_LOCAL_MODEL))


def _absolute_teachers(teachers: Any) -> Any:
    """Return a list of teachers with absolute paths of models and weights."""
    converters = {"model": _absolute_model, "pretrained": _absolute_weights}
    converted = []
    for teacher in teachers:
        if isinstance(teacher, dict):
            teacher = dict(teacher)
            for name, convert in converters.items():
                if teacher.get(name):
                    teacher[name] = convert(teacher[name])
        converted.append(teacher)
    return converted


_CONVERTERS: Mapping[str, Callable[[Any], Any]] = {
    "data.path": _absolute,
    "data.class_names": _absolute_if_file,
    "data.keep": _absolute_if_file,
    "anchors.vocabulary": _absolute_if_file,
    "objective.name": _absolute_objective,
    "student.init": _absolute_if_file,
    "teacher.model": _absolute_model,
    "teacher.pretrained": _absolute_weights,
    "teacher.others": _absolute_teachers,
}
"""Settings that may hold a path, and how it is made absolute."""


def _absolute_tracking_uri(base: Experiment) -> str | None:
    """Return the tracking URI to store, or None if unset or if it contains a password.

    A password in a setting stays, as the user wrote it there. One in the environment must not get
    into a file. A missing URI is reported when the tracking server is opened.
    """
    try:
        uri = tracking_uri(base)
    except UserError:
        return None
    if base.tracking.uri is None and holds_password(uri):
        return None
    scheme, slashes, path = uri.partition(":///")
    if not scheme.startswith("sqlite") or path in ("", ":memory:") or path.startswith("/"):
        return uri
    return f"{scheme}{slashes}{Path(path).absolute()}"

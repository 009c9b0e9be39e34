"""Make settings independent of the process that starts a sweep.

Trials run in other folders and with other environment variables. So paths are made absolute before
the settings are sent to trials, and values that come from environment variables are written into
the settings.
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
    LOCAL_MODEL,
    is_sqlite,
    path_errors_as_user_error,
    sqlite_uri,
    storage_root,
    stores_root,
    tracking_uri,
)

_KEYWORDS = ("random", "pretrained", "data", "imagenet-1k", "imagenet-21k", "lvis")
"""Values of `student.init` and `anchors.vocabulary` that are never paths.

They are taken as keywords even if a file has that name.
"""


def absolute_paths(sweep: Sweep, base: Experiment) -> tuple[Sweep, Experiment]:
    """Return a sweep and its base with absolute paths in the space, the variants and the base.

    Locations that come from environment variables are filled in, so that trials and `--resume` use
    the same ones as this process. The text of users' objectives is added (`objective.code`). URLs
    stay as they are.

    Args:
        sweep: search space and variants.
        base: the settings that all trials share.

    Raises:
        UserError: a setting contains an invalid path, or the file of a user's objective can't be
            read.
    """
    space = {key: _absolute_dimension(key, dimension) for key, dimension in sweep.space.items()}
    variants = {name: _absolute_values(settings) for name, settings in sweep.variants.items()}
    sweep = sweep.model_copy(update={"space": space, "variants": variants})
    return sweep, _with_objective_code(sweep, with_absolute_paths(base))


def with_absolute_paths(base: Experiment) -> Experiment:
    """Return an experiment with absolute paths, for use in another process.

    Raises:
        UserError: a setting contains an invalid path.
    """
    values = _absolute_values({key: _value_of(base, key) for key in _CONVERTERS})
    # These three may be unset, and their defaults depend on environment variables.
    values["storage.path"] = storage_root(base)
    values["storage.cache"] = str(stores_root(base))
    values["tracking.uri"] = _absolute_tracking_uri(base)
    return with_values(base, values)


def objective_files(sweep: Sweep, base: Experiment) -> list[str]:
    """Return the files of users' objectives that the trials of a sweep use, each once.

    Args:
        sweep: the sweep.
        base: the experiment that its trials vary.
    """
    # Any trial's objective comes from the base, a variant or the search space.
    names = [base.objective.name]
    for settings in sweep.variants.values():
        names.append(str(settings.get("objective.name", "")))
    dimension = sweep.space.get("objective.name")
    if isinstance(dimension, Choice):
        names += [str(value) for value in dimension.values]
    files: list[str] = []
    for name in names:
        # One name may combine several objectives: `csm+a.py:f`.
        files += [path for path in own_files(name) if path not in files]
    return files


def _with_objective_code(sweep: Sweep, base: Experiment) -> Experiment:
    """Return the base with the source text of the users' objectives that the trials use.

    Trials on other machines may not see the files, and `--resume` must not pick up later edits.
    """
    code: dict[str, str] = {}
    try:
        for path in objective_files(sweep, base):
            code[path] = source_of(path, base.objective.code)
    except ValueError as error:
        raise UserError(f"objective.name: {error}") from None
    return with_values(base, {"objective.code": code}) if code else base


def settings_text(experiment: Experiment) -> str:
    """Return an experiment as the text of a preset file, to run it again elsewhere.

    The locations of runs, stores and results are left out, since they belong to this machine.
    """
    locations = {"storage": {"path", "cache"}, "tracking": {"uri"}}
    settings = experiment.model_dump(mode="json", exclude=locations)
    return yaml.safe_dump(settings, sort_keys=False)


def _value_of(base: Experiment, key: str) -> Any:
    section, name = key.split(".")
    return base.model_dump(mode="json", include={section})[section][name]


def _absolute_dimension(key: str, dimension: Dimension) -> Dimension:
    # Only a choice can hold paths; the other dimensions are ranges of numbers.
    if key not in _CONVERTERS or not isinstance(dimension, Choice):
        return dimension
    return Choice(values=tuple(absolute_value(key, value) for value in dimension.values))


def _absolute_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: absolute_value(key, value) for key, value in values.items()}


def absolute_value(key: str, value: Any) -> Any:
    """Return a setting's value; if the setting may contain a path, with an absolute path.

    Raises:
        UserError: the path is invalid.
    """
    if key not in _CONVERTERS or not value:
        return value
    with path_errors_as_user_error(key, str(value)):
        return _CONVERTERS[key](value)


def _absolute(value: Any) -> str:
    """Return an absolute path; a URL stays as it is."""
    text = str(value)
    return text if "://" in text else str(Path(text).expanduser().absolute())


def _absolute_if_file(value: Any) -> Any:
    """Return the absolute path of a file.

    Any other value stays as it is, so that later errors quote it as the user wrote it.
    """
    text = str(value)
    if text in _KEYWORDS or "://" in text or not Path(text).expanduser().is_file():
        return value
    return _absolute(text)


def _absolute_weights(value: Any) -> Any:
    """Return the absolute path of a weights file; an open_clip tag stays as it is."""
    # Tags have neither dots nor slashes. The working directory may contain a file that happens to
    # have a tag's name.
    looks_like_path = "/" in str(value) or "." in str(value)
    return _absolute_if_file(value) if looks_like_path else value


def _absolute_objective(value: Any) -> str:
    """Return an objective's name with absolute paths of users' files: `csm+/home/me/a.py:f`."""
    parts = []
    for part in str(value).split("+"):
        path, _, target = part.rpartition(":")
        if path.endswith(".py"):
            part = f"{_absolute(path)}:{target}"
        parts.append(part)
    return "+".join(parts)


def _absolute_model(value: Any) -> Any:
    """Return a model's name; the folder in `local-dir:FOLDER` is made absolute."""
    text = str(value)
    if not text.startswith(LOCAL_MODEL):
        return value
    return LOCAL_MODEL + _absolute(text.removeprefix(LOCAL_MODEL))


def _absolute_teachers(teachers: Any) -> Any:
    """Return a list of teachers with absolute paths of models and weights."""
    converters = {"model": _absolute_model, "pretrained": _absolute_weights}
    converted = []
    for teacher in teachers:
        # In a search space the values are not validated yet. A wrong one is reported later.
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
"""Function that makes the path absolute, by setting that may contain one."""


def _absolute_tracking_uri(base: Experiment) -> str | None:
    """Return the tracking URI to store, or None if unset or if it contains a password.

    A password in a setting stays, because the user wrote it there. One in an environment variable
    must not be written to a file.
    """
    try:
        uri = tracking_uri(base)
    except UserError:
        # No URI is set. That is reported when the tracking server is opened.
        return None
    if base.tracking.uri is None and holds_password(uri):
        return None
    # Only sqlite URIs contain a path: `sqlite:///relative.db`, or `sqlite:////absolute.db`.
    scheme, slashes, path = uri.partition(":///")
    if not is_sqlite(uri) or path in ("", ":memory:") or path.startswith("/"):
        return uri
    # The path in the URI is encoded already, the working directory is not.
    folder = sqlite_uri(str(Path.cwd())).partition(":///")[2]
    return f"{scheme}{slashes}{folder}/{Path(path)}"

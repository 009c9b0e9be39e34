"""Settings that name places, made absolute: trials run elsewhere, in other folders and with another environment than the sweep's driver."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from beamclip.config import Choice, Experiment, Sweep, UserError, with_values
from beamclip.provenance import holds_password
from beamclip.storage import names_a_place, storage_root, stores_root, tracking_uri

_WORDS = ("random", "pretrained", "data", "imagenet-1k", "imagenet-21k", "lvis")  # which mean no file, even where one is called so
_FOLDER = "local-dir:"


def pinned(sweep: Sweep, base: Experiment) -> tuple[Sweep, Experiment]:
    """The same sweep and base with absolute places: of storage, stores and tracking, of data, teachers, lists and first students.

    What the environment chooses is written down as well, so that trials and --resume go by what this process saw. URLs stay as they are.

    Raises:
        UserError: a setting names a place that can't be one.
    """
    space = {key: _dimension(key, dimension) for key, dimension in sweep.space.items()}
    variants = {name: _bundle(bundle) for name, bundle in sweep.variants.items()}
    return sweep.model_copy(update={"space": space, "variants": variants}), placed(base)


def placed(base: Experiment) -> Experiment:
    """The same experiment with absolute places, for whatever reads its files in another process.

    Raises:
        UserError: as `pinned`.
    """
    own = {key: _of(base, key) for key in _PINS}
    values = {"storage.path": storage_root(base), "storage.cache": str(stores_root(base)), "tracking.uri": _tracking(base)}
    return with_values(base, values | _bundle(own))


def settings_text(experiment: Experiment) -> str:
    """An experiment as a preset file for whoever makes it again: without where this one's runs, stores and results lie."""
    places = {"storage": {"path", "cache"}, "tracking": {"uri"}}
    return yaml.safe_dump(experiment.model_dump(mode="json", exclude=places), sort_keys=False)


def _of(base: Experiment, key: str) -> Any:
    section, name = key.split(".")
    return base.model_dump(mode="json", include={section})[section][name]


def _dimension(key: str, dimension: Any) -> Any:
    if key not in _PINS or not isinstance(dimension, Choice):
        return dimension
    return Choice(values=tuple(_bundle({key: value})[key] for value in dimension.values))


def _bundle(bundle: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _pin(key, value) if key in _PINS and value else value for key, value in bundle.items()}


def _pin(key: str, value: Any) -> Any:
    with names_a_place(key, str(value)):
        return _PINS[key](value)


def _absolute(value: Any) -> str:
    text = str(value)
    return text if "://" in text else str(Path(text).expanduser().absolute())


def _file(value: Any) -> Any:
    """A name that is no file's stays, so that whoever knows such names can say what is wrong with it."""
    text = str(value)
    return _absolute(text) if text not in _WORDS and "://" not in text and Path(text).expanduser().is_file() else value


def _weights(value: Any) -> Any:
    """A tag of open_clip's stays, whatever lies here under its name: tags hold neither dots nor slashes."""
    return _file(value) if "/" in str(value) or "." in str(value) else value


def _teacher(value: Any) -> Any:
    text = str(value)
    return _FOLDER + _absolute(text.removeprefix(_FOLDER)) if text.startswith(_FOLDER) else value


def _others(value: Any) -> Any:
    pins = {"model": _teacher, "pretrained": _weights}
    return [{k: pins[k](v) if k in pins and v else v for k, v in one.items()} if isinstance(one, dict) else one for one in value]


_PINS: Mapping[str, Callable[[Any], Any]] = {
    "data.path": _absolute, "data.class_names": _file, "data.keep": _file, "anchors.vocabulary": _file, "student.init": _file,
    "teacher.model": _teacher, "teacher.pretrained": _weights, "teacher.others": _others,
}  # fmt: skip


def _tracking(base: Experiment) -> str | None:
    """None where there is none, which is said where it is opened, and where the environment holds a password, which no file may."""
    try:
        uri = tracking_uri(base)
    except UserError:
        return None
    if base.tracking.uri is None and holds_password(uri):
        return None
    scheme, slashes, file = uri.partition(":///")
    is_relative = scheme.startswith("sqlite") and bool(file) and file != ":memory:" and not file.startswith("/")
    return f"{scheme}{slashes}{Path(file).absolute()}" if is_relative else uri

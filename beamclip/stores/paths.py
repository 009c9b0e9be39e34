"""Settings that name places, made absolute: trials run elsewhere, in other folders and with another environment than the sweep's driver."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pyarrow import fs

from beamclip.config import Choice, Experiment, Sweep, UserError, with_values
from beamclip.config.provenance import holds_password, without_passwords
from beamclip.stores.io import key_of, make_folder

# Where runs and stores are kept.


def storage_root(experiment: Experiment) -> str:
    """Folder or URI of runs: `storage.path`, else $BEAMCLIP_STORAGE, else ~/beamclip. Never relative: a Ray job's folder is thrown away.

    Raises:
        UserError: it is a path that names nothing, or a URI with a query, behind which no folder can be named.
    """
    chosen = experiment.storage.path or os.environ.get("BEAMCLIP_STORAGE") or "~/beamclip"
    if "://" not in chosen:
        return _resolved("storage.path", chosen)
    if "?" in chosen:
        instead = "write it without, and say in every node's environment what stands there (for S3: AWS_ENDPOINT_URL, AWS_REGION)"
        raise UserError(
            f"storage {without_passwords(chosen)} ends in a query, behind which no folder can be named; {instead}"
        )
    return chosen


def stores_root(experiment: Experiment) -> Path:
    """Folder of all stores: `storage.cache`, else $BEAMCLIP_CACHE, else `stores` in the storage folder; ~/beamclip/stores beside a URI.

    Raises:
        UserError: it is a path that names nothing.
    """
    chosen = experiment.storage.cache or os.environ.get("BEAMCLIP_CACHE")
    if chosen:
        return Path(_resolved("storage.cache", chosen))
    root = storage_root(experiment)
    return (
        Path(_resolved("storage.cache", "~/beamclip/stores"))
        if "://" in root
        else Path(root) / "stores"
    )


def _resolved(key: str, text: str) -> str:
    with names_a_place(key, text):
        return str(Path(text).expanduser().resolve())


@contextmanager
def names_a_place(key: str, text: str) -> Iterator[None]:
    """Turn what a path is refused for into a sentence: another user's home that isn't there, a name too long, a folder closed to us.

    Raises:
        UserError: what was done inside with the path `text` of the setting `key` failed.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error).rstrip(".")
        raise UserError(
            f"{key} {text} names no place here ({reason}); write another path"
        ) from None


def asset_key(experiment: Experiment) -> str:
    """Runs with the same key read the same stores; whatever is not in here varies without a teacher pass."""
    sections = experiment.model_dump(mode="json", include={"data", "views", "teacher", "anchors"})
    sections["anchors"].pop("count")
    objective = experiment.objective
    clusters = objective.clip_cid.clusters if objective.needs.clusters else None
    sections["objective"] = {"embeddings": objective.needs.embeddings, "clusters": clusters}
    sections["balance"] = (
        experiment.balance.model_dump(mode="json") if experiment.balance.active else None
    )
    return key_of(sections)


def tracking_uri(experiment: Experiment) -> str:
    """`tracking.uri`, else $MLFLOW_TRACKING_URI, else a sqlite file in the storage folder.

    Raises:
        UserError: storage is a URI, beside which no sqlite file can lie, or names no place.
    """
    root = storage_root(experiment)
    given = experiment.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if given is None and "://" in root:
        raise UserError(
            f"storage {without_passwords(root)} can't hold the default sqlite file; name an MLflow server with --tracking-uri"
        )
    return given or f"sqlite:///{root}/mlflow.db"


def artifact_root(experiment: Experiment) -> str | None:
    """Where artifacts lie, for a sqlite file; a server knows its own."""
    root = storage_root(experiment)
    return f"{root}/artifacts" if tracking_uri(experiment).startswith("sqlite:") else None


def check_writable(experiment: Experiment) -> None:
    """See that runs and stores can be written, before anything starts.

    Raises:
        UserError: they can't.
    """
    root = storage_root(experiment)
    if "://" not in root:
        make_folder(Path(root))
    else:
        _make_remote(root)
    make_folder(stores_root(experiment))


def _make_remote(uri: str) -> None:
    filesystem, path = filesystem_of(uri)
    try:
        filesystem.create_dir(path, recursive=True)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            without_passwords(
                f"storage {uri} can't be written ({reason}); choose another with --storage"
            )
        ) from None


def local_folder(uri: str) -> Path | None:
    """The local path of a folder or `file://` URI, None for anything remote."""
    filesystem, path = filesystem_of(uri)
    return Path(path) if isinstance(filesystem, fs.LocalFileSystem) else None


def fetched_files(root: str, path: str, names: Sequence[str], here: Path) -> list[Path]:
    """Those files of a folder that exist: as they lie where that is on this machine, else copied here.

    Args:
        root: a folder or URI that says in which file system.
        path: of the folder, in that file system and without a scheme, as Ray says where a checkpoint lies.
    """
    filesystem, _ = filesystem_of(root)
    infos = [
        info
        for info in filesystem.get_file_info([f"{path}/{name}" for name in names])
        if info.type == fs.FileType.File
    ]
    if isinstance(filesystem, fs.LocalFileSystem):
        return [Path(info.path) for info in infos]
    for info in infos:
        fs.copy_files(info.path, str(here / info.base_name), source_filesystem=filesystem)
    return [here / info.base_name for info in infos]


def entries(uri: str) -> list[str]:
    """Names in a folder; none where it does not exist."""
    filesystem, path = filesystem_of(uri)
    return [
        entry.base_name
        for entry in filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    ]


def filesystem_of(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URI, and the path in it.

    Raises:
        UserError: no such kind of URI is known.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), uri
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        raise UserError(
            without_passwords(
                f"storage {uri} is no folder or known URI: {str(error).splitlines()[0]}"
            )
        ) from None
    return filesystem, path


_WORDS = (
    "random",
    "pretrained",
    "data",
    "imagenet-1k",
    "imagenet-21k",
    "lvis",
)  # which mean no file, even where one is called so
_FOLDER = "local-dir:"


def absolute_paths(sweep: Sweep, base: Experiment) -> tuple[Sweep, Experiment]:
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
        UserError: as `absolute_paths`.
    """
    own = {key: _of(base, key) for key in _PINS}
    values = {
        "storage.path": storage_root(base),
        "storage.cache": str(stores_root(base)),
        "tracking.uri": _tracking(base),
    }
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
    return {
        key: _pin(key, value) if key in _PINS and value else value for key, value in bundle.items()
    }


def _pin(key: str, value: Any) -> Any:
    with names_a_place(key, str(value)):
        return _PINS[key](value)


def _absolute(value: Any) -> str:
    text = str(value)
    return text if "://" in text else str(Path(text).expanduser().absolute())


def _file(value: Any) -> Any:
    """A name that is no file's stays, so that whoever knows such names can say what is wrong with it."""
    text = str(value)
    return (
        _absolute(text)
        if text not in _WORDS and "://" not in text and Path(text).expanduser().is_file()
        else value
    )


def _weights(value: Any) -> Any:
    """A tag of open_clip's stays, whatever lies here under its name: tags hold neither dots nor slashes."""
    return _file(value) if "/" in str(value) or "." in str(value) else value


def _teacher(value: Any) -> Any:
    text = str(value)
    return _FOLDER + _absolute(text.removeprefix(_FOLDER)) if text.startswith(_FOLDER) else value


def _others(value: Any) -> Any:
    pins = {"model": _teacher, "pretrained": _weights}
    return [
        {k: pins[k](v) if k in pins and v else v for k, v in one.items()}
        if isinstance(one, dict)
        else one
        for one in value
    ]


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
    is_relative = (
        scheme.startswith("sqlite")
        and bool(file)
        and file != ":memory:"
        and not file.startswith("/")
    )
    return f"{scheme}{slashes}{Path(file).absolute()}" if is_relative else uri

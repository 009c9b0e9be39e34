"""Where runs, stores and results are kept: settings, environment variables and defaults.

Storage may be a folder or a URI, such as `s3://bucket/folder`. It is accessed with pyarrow's file
systems, as Ray does when it writes trials and checkpoints. So both understand the same URIs and
credentials. Images are read with fsspec instead (`beamclip.data.files`), which also reads HTTP and
the Hugging Face hub.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from beamclip.config import Experiment, UserError, nearest
from beamclip.config.errors import first_line
from beamclip.config.provenance import without_passwords
from beamclip.stores.io import key_of, make_folder

LOCAL_MODEL = "local-dir:"
"""open_clip's prefix for a model in a local folder."""

_DEFAULT_STORAGE = "~/beamclip"


def storage_root(experiment: Experiment) -> str:
    """Return the folder or URI of runs: `storage.path`, else $BEAMCLIP_STORAGE, else ~/beamclip.

    A folder is returned as an absolute path.

    Raises:
        UserError: the path is invalid, or the URI has a query.
    """
    chosen = experiment.storage.path or os.environ.get("BEAMCLIP_STORAGE") or _DEFAULT_STORAGE
    if "://" not in chosen:
        # A relative path would be in the working directory of a Ray job, which is deleted, and
        # results would be lost with it.
        return _resolve("storage.path", chosen)
    # Folders are appended to the root. After a query, pyarrow would read them as a part of it, and
    # all sweeps would share one folder.
    if "?" in chosen:
        raise UserError(
            f"storage {without_passwords(chosen)} ends in a query, so no folder can be appended to "
            "it; leave the query out, and set its options as environment variables on every node "
            "(for S3: AWS_ENDPOINT_URL, AWS_REGION)"
        )
    return chosen


def stores_root(experiment: Experiment) -> Path:
    """Return the folder of all stores, as an absolute path.

    It is `storage.cache`, else $BEAMCLIP_CACHE, else `stores` in the storage folder. If neither is
    set and the storage is a URI, it is ~/beamclip/stores.

    Raises:
        UserError: the path is invalid.
    """
    chosen = experiment.storage.cache or os.environ.get("BEAMCLIP_CACHE")
    if chosen:
        return Path(_resolve("storage.cache", chosen))
    root = storage_root(experiment)
    # Stores are memory-mapped and locked, so they must be in a mounted file system.
    if "://" in root:
        return Path(_resolve("storage.cache", f"{_DEFAULT_STORAGE}/stores"))
    return Path(root) / "stores"


def _resolve(key: str, path: str) -> str:
    with path_errors_as_user_error(key, path):
        return str(Path(path).expanduser().resolve())


@contextmanager
def path_errors_as_user_error(key: str, path: str) -> Iterator[None]:
    """Turn the errors of an invalid path into a UserError.

    Examples: the home of an unknown user (`~nosuchuser/x`), a null character, a loop of links, a
    name that is too long, or a folder on the way that can't be read.

    Args:
        key: the setting that holds the path, for the message.
        path: the path that the block uses, for the message.

    Raises:
        UserError: the block raised OSError, RuntimeError or ValueError.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).rstrip(".")
        # The text of an OSError would repeat the path.
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise UserError(
            f"{key} {path} is not a valid path here ({reason}); write another path"
        ) from None


def check_model_folder(key: str, folder: Path) -> None:
    """Check that the folder of a `local-dir:` model exists.

    Args:
        key: the setting that names the folder, for the message.
        folder: the folder.

    Raises:
        UserError: it does not exist, or its path is invalid. Similar names next to it are
            suggested.
    """
    with path_errors_as_user_error(key, str(folder)):
        if folder.is_dir():
            return
        siblings = []
        if folder.parent.is_dir():
            siblings = [path.name for path in folder.parent.iterdir() if path.is_dir()]
    raise UserError(
        f"{key} names the folder {folder}, which does not exist{nearest(folder.name, siblings)}"
    )


def asset_key(experiment: Experiment) -> str:
    """Return a key that is the same for experiments that need the same stores.

    Settings that are not in it can vary within a sweep without another teacher pass. The keys are
    part of `sweep.json`, so they must not change: renamed settings keep their first names here.
    """
    sections = experiment.key_parts(include={"data", "views", "teacher", "anchors"})
    # A store has the anchors of all classes; trials take the first `count` of them.
    sections["anchors"].pop("count")
    # Of the objective, these alone decide which stores are built.
    objective = experiment.objective
    sections["objective"] = {
        "embeddings": objective.requirements.embeddings,
        "clusters": objective.clusters,
    }
    balance = experiment.balance
    sections["balance"] = balance.key_parts() if balance.active else None
    return key_of(sections)


def tracking_uri(experiment: Experiment) -> str:
    """Return `tracking.uri`, else $MLFLOW_TRACKING_URI, else a sqlite file in the storage folder.

    Raises:
        UserError: no URI is set and the storage is not a folder, so it can't hold a sqlite file;
            or the storage path is invalid.
    """
    root = storage_root(experiment)
    uri = experiment.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri and "://" in root:
        raise UserError(
            f"storage {without_passwords(root)} can't hold the default sqlite file; "
            "name an MLflow server with --tracking-uri"
        )
    return uri or default_tracking_uri(root)


def default_tracking_uri(root: str) -> str:
    """Return the URI of the sqlite file in the storage folder `root`."""
    return sqlite_uri(f"{root}/mlflow.db")


def sqlite_uri(path: str) -> str:
    """Return the SQLAlchemy URI of a sqlite file, given its absolute path."""
    # SQLAlchemy decodes %20 and cuts a query off at "?". All other characters stay as they are.
    if "%" not in path and "?" not in path:
        return f"sqlite:///{path}"
    # With the scheme `sqlite` MLflow would create the parent folder under its encoded name.
    return f"sqlite+pysqlite:///{path.replace('%', '%25').replace('?', '%3F')}"


def is_sqlite(uri: str) -> bool:
    """Return True for the URI of a sqlite file, with or without a driver (`sqlite+pysqlite:`)."""
    return uri.partition(":")[0].partition("+")[0].lower() == "sqlite"


def artifact_root(experiment: Experiment) -> str | None:
    """Return the folder or URI of artifacts if runs are tracked in sqlite, else None.

    A tracking server decides itself where artifacts are stored.

    Raises:
        UserError: see `tracking_uri`.
    """
    root = storage_root(experiment)
    return artifact_location(f"{root}/artifacts") if is_sqlite(tracking_uri(experiment)) else None


def artifact_location(folder: str) -> str:
    """Return a folder or URI in the form in which MLflow finds it again.

    MLflow decodes %20 in plain paths and looks for a query in them. So a path with % or ? is
    returned as a `file://` URI.
    """
    if "://" in folder or ("%" not in folder and "?" not in folder):
        return folder
    return Path(folder).as_uri()


def check_writable(experiment: Experiment) -> None:
    """Create the folders of runs and stores, and check that they can be written.

    Raises:
        UserError: a folder can't be created or written, or Python and Ray would write its name
            differently.
    """
    root = storage_root(experiment)
    for path in (root, str(stores_root(experiment))):
        _check_name_encoding(path)
    if "://" in root:
        _make_remote_folder(root)
    else:
        make_folder(Path(root))
    make_folder(stores_root(experiment))


def names_are_utf8() -> bool:
    """Return whether this process reads file names as UTF-8, as Ray and SQLite do."""
    return sys.getfilesystemencoding().lower() == "utf-8"


def _check_name_encoding(path: str) -> None:
    """Raise UserError for a path outside ASCII if Python does not read file names as UTF-8.

    The commands restart themselves in UTF-8 mode, so this is for notebooks and programs.
    """
    if path.isascii() or names_are_utf8():
        return
    # Show what the bytes mean.
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    raise UserError(
        f"storage {name} has letters outside ASCII, and Python reads file names as "
        f"{sys.getfilesystemencoding()} here, but Ray and SQLite as UTF-8; start Python with "
        "PYTHONUTF8=1, or choose another folder"
    )


def _make_remote_folder(uri: str) -> None:
    filesystem, path = filesystem_of(uri)
    try:
        filesystem.create_dir(path, recursive=True)
    except OSError as error:
        message = (
            f"storage {uri} can't be written ({first_line(error)}); choose another with --storage"
        )
        raise UserError(without_passwords(message)) from None


def filesystem_of(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a path or URI, and the path in it.

    Raises:
        UserError: pyarrow can't read the URI, or does not know its scheme.
    """
    # `from_uri` refuses relative paths.
    if "://" not in uri:
        return fs.LocalFileSystem(), uri
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        message = f"storage {uri} is neither a folder nor a known URI: {first_line(error)}"
        raise UserError(without_passwords(message)) from None
    return filesystem, path


def local_folder(uri: str) -> Path | None:
    """Return the local path of a folder or `file://` URI, or None if it is remote."""
    filesystem, path = filesystem_of(uri)
    return Path(path) if isinstance(filesystem, fs.LocalFileSystem) else None


def list_folder(uri: str) -> list[str]:
    """Return the names in a folder; an empty list if it does not exist."""
    filesystem, path = filesystem_of(uri)
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return [info.base_name for info in infos]


def fetch_files(root: str, folder: str, names: Sequence[str], destination: Path) -> list[Path]:
    """Return local paths of files in a folder of the storage, downloading them if it is remote.

    Args:
        root: folder or URI of the storage, which decides the file system.
        folder: path of the folder in that file system, without a scheme. Ray gives the paths of
            checkpoints in this form.
        names: names of the files; those that don't exist are skipped.
        destination: folder to download to. Not used if the file system is local.
    """
    filesystem, _ = filesystem_of(root)
    infos = filesystem.get_file_info([f"{folder}/{name}" for name in names])
    existing = [info for info in infos if info.type == fs.FileType.File]
    if isinstance(filesystem, fs.LocalFileSystem):
        return [Path(info.path) for info in existing]
    paths = []
    for info in existing:
        path = destination / info.base_name
        fs.copy_files(info.path, str(path), source_filesystem=filesystem)
        paths.append(path)
    return paths

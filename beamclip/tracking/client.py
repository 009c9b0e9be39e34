"""Connect to a tracking server or database, and fail within seconds if it doesn't answer."""

import logging
import os
import re
import socket
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from beamclip.config import UserError, first_line
from beamclip.config.provenance import without_passwords
from beamclip.stores.paths import artifact_location, is_sqlite, sqlite_uri
from beamclip.tracking.database import (
    check_schema,
    create_sqlite,
    read_schema,
    sqlite_path,
    upgrade_sqlite,
)

# Re-exported for `beamclip.reporting`, which must not import mlflow itself.
__all__ = ["MlflowClient", "Run"]

# A server or a locked database that has not answered after this time is an error. MLflow's own
# defaults retry for minutes.
ANSWER_SECONDS = 4
# Default port of each kind of database server.
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# Schemes that people write for another one.
_MISSPELLED = {"postgres": "postgresql", "sqlite3": "sqlite"}
# With a user and a password in front of the host, or without.
_HOST_AND_PORT = re.compile(r"(?:[^/\s]*@)?[\w.-]+:\d+(?:/|$)")
_ARTIFACTS = "/artifacts"
# Columns of MLflow's database that hold paths of artifacts.
_PATH_COLUMNS = (("experiments", "artifact_location"), ("runs", "artifact_uri"))
_log = logging.getLogger(__name__)


def connect(uri: str, *, create: bool = True) -> MlflowClient:
    """Return a client of a tracking server or database, after checking that it answers.

    A database of another MLflow is not migrated. If a sqlite file was moved together with its
    artifacts, the paths in it are updated.

    Args:
        uri: MLflow tracking URI.
        create: True to create a missing sqlite file with its folder and tables; False to only
            read.

    Raises:
        UserError: the URI is of an unknown kind, or its server or file can't be used, such as a
            database that was never finished or that another MLflow wrote.
    """
    _silence_mlflow()

    # Check first what fails slowly in MLflow.
    scheme = _scheme(uri)
    _check_address(uri, scheme)
    if scheme == "sqlite":
        _check_sqlite(uri, create)
    elif scheme in _DATABASE_PORTS:
        _check_port(uri, scheme)

    # Two processes at once would both create the tables, or both the first experiment.
    with database_lock(uri) if create else nullcontext():
        if scheme == "sqlite" or scheme in _DATABASE_PORTS:
            _check_tables(uri, create)
        client = _checked_client(uri)
    if scheme == "sqlite":
        relocate_artifacts(sqlite_path(uri))
    return client


def describe_tracking(uri: str) -> str:
    """Return a sentence on a tracking URI that a sweep can use. Nothing is created or changed.

    Raises:
        UserError: see `connect`.
    """
    shown = without_passwords(uri)
    _check_address(uri, _scheme(uri))
    if is_sqlite(uri):
        path = sqlite_path(uri)
        # A device has no size either, and would be replaced by the database.
        if not path.exists() or (path.is_file() and not path.stat().st_size):
            _check_folder(uri, path)
            return f"{shown} will be created"
        _check_sqlite(uri, create=True)
    connect(uri, create=False)
    return f"{shown} answers"


def upgrade_tracking(uri: str) -> str:
    """Migrate a sqlite file of an older MLflow, keep a copy, and return a sentence that says so.

    Raises:
        UserError: it can't be migrated.
    """
    _silence_mlflow()
    scheme = _scheme(uri)
    _check_address(uri, scheme)
    if scheme != "sqlite":
        raise UserError(
            f"--upgrade-tracking upgrades sqlite files, and tracking.uri {without_passwords(uri)} "
            "is not one; back the database up and run mlflow db upgrade where its server runs"
        )
    _check_sqlite(uri, create=False)
    _check_sqlite(uri, create=True)
    with database_lock(uri):
        kept = upgrade_sqlite(uri)
    if kept is None:
        return f"{without_passwords(uri)} needs no upgrade"
    return f"{without_passwords(uri)} is upgraded; the old database is kept as {kept}"


def _scheme(uri: str) -> str:
    """Return the kind of a tracking URI, such as `sqlite`, `http`, or an empty text for a path."""
    # The scheme of postgresql+psycopg2://… is postgresql.
    scheme = uri.partition(":")[0].partition("+")[0].lower() if ":" in uri else ""
    # A drive of Windows.
    return "" if len(scheme) == 1 else scheme


@contextmanager
def database_lock(uri: str) -> Iterator[None]:
    """Hold a lock file next to a sqlite file. For a server, do nothing.

    It only excludes processes that call this function too.
    """
    if not is_sqlite(uri):
        yield
        return
    with FileLock(f"{sqlite_path(uri)}.lock"):
        yield


@contextmanager
def fail_fast() -> Iterator[None]:
    """Make MLflow's requests fail within seconds and without retries.

    It is used to check that a server answers, and for the last requests of an interrupted process.
    """
    # MLflow reads these variables at every request.
    settings = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(ANSWER_SECONDS),
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


@contextmanager
def mlflow_errors_as_user_error(
    problem: str, remedy: str = "fix the tracking server and continue with --resume"
) -> Iterator[None]:
    """Turn errors of MLflow and of the file system into a UserError.

    Args:
        problem: what can't be done inside the block, such as "plots can't be written".
        remedy: what the user should do.

    Raises:
        UserError: the problem, the first line of the error, and the remedy.
    """
    try:
        yield
    except (MlflowException, OSError) as error:
        reason = without_passwords(first_line(error))
        raise UserError(f"{problem} ({reason}); {remedy}") from None


def default_artifact_root(uri: str, name: str) -> str | None:
    """Return the folder for an experiment's artifacts: `artifacts/NAME` next to a sqlite file.

    It is None for a server, which has its own default.

    Args:
        uri: MLflow tracking URI.
        name: name of the MLflow experiment.
    """
    # With a sqlite file MLflow's default would be a folder in the working directory.
    if not is_sqlite(uri):
        return None
    return artifact_location(str(sqlite_path(uri).parent / "artifacts" / name))


def find_or_create_experiment(client: MlflowClient, name: str, artifact_root: str | None) -> str:
    """Return the id of the MLflow experiment of this name; create it if it doesn't exist.

    A deleted experiment is restored, since MLflow allows no new one of the same name.

    Args:
        client: client of the tracking server.
        name: name of the experiment.
        artifact_root: folder of its artifacts if it is created; None for the server's default.

    Raises:
        UserError: the experiment can't be created.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location=artifact_root)
        except MlflowException as error:
            # Another sweep may have created it since the look-up above.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise UserError(
                    f"MLflow experiment {name} can't be created ({first_line(error)}); "
                    "fix the tracking server"
                ) from None
    if experiment.lifecycle_stage == "deleted":
        _log.warning(
            "MLflow experiment %s had been deleted; it is restored, with its old runs.", name
        )
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def search_all(client: MlflowClient, experiment_id: str, filter_string: str) -> list[Run]:
    """Return all runs of an experiment that match a filter, newest first, from all pages."""
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment_id],
            filter_string,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            return runs


def relocate_artifacts(database: Path) -> None:
    """Update the artifact paths in a sqlite file that was moved together with its artifacts.

    MLflow stores absolute paths and has no call to change them. A path is changed only if its old
    root no longer exists and files of its runs are found next to the database.

    Args:
        database: absolute path of the sqlite file.
    """
    # Errors are ignored: a read-only database keeps its old paths. `closing` closes the connection;
    # the connection itself is a context manager that commits or rolls back.
    with suppress(sqlite3.Error), closing(sqlite3.connect(database)) as connection, connection:
        uris = [uri for (uri,) in connection.execute("SELECT artifact_uri FROM runs")]
        for old_root in _moved_roots(uris, database.parent):
            _replace_root(connection, old_root, str(database.parent))


def _local_path(uri: str) -> str | None:
    """Return the path of a plain path or `file:` URI; None for an address of another kind."""
    if uri.lower().startswith("file:"):
        return unquote(urlsplit(uri).path)
    return None if "://" in uri else uri


def _moved_roots(uris: Iterable[str], new_root: Path) -> set[str]:
    """Return the old roots that no longer exist but whose runs' files are found below `new_root`.

    Args:
        uris: artifact URIs of runs. Only local ones with a folder `artifacts` are considered.
        new_root: folder of the database.

    Returns:
        The roots in the form that they have in `uris`: a path, or the beginning of a `file:` URI.
    """
    roots = set()
    for uri in uris:
        if not uri or f"{_ARTIFACTS}/" not in uri:
            continue
        old_root, _, rest = uri.partition(f"{_ARTIFACTS}/")
        path = _local_path(old_root)
        if path and path != str(new_root) and (new_root / "artifacts" / rest).exists():
            roots.add(old_root)
    return {root for root in roots if not Path(_local_path(root) or root).exists()}


def _replace_root(connection: sqlite3.Connection, old_root: str, new_root: str) -> None:
    """Replace a folder at the beginning of all artifact paths in the database."""
    old = f"{old_root}{_ARTIFACTS}"
    new = artifact_location(f"{new_root}{_ARTIFACTS}")
    for table, column in _PATH_COLUMNS:
        # Not REPLACE or LIKE: a path may have the folder twice, or the wildcards % and _. sqlite
        # counts characters from 1, so the rest of the path starts at len(old) + 1.
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
            f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
            (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
        )


def _silence_mlflow() -> None:
    """Turn off MLflow's routine messages, which would break progress bars.

    MLflow and alembic log every table that they create, and print a link for every run that ends.
    """
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def _check_address(uri: str, scheme: str) -> None:
    """Raise UserError for a tracking URI that can't hold the runs of a sweep, whatever is there."""
    shown = f"tracking.uri {without_passwords(uri)}"
    name = uri.partition(":")[0].lower()
    if name == "databricks":
        raise UserError(
            f"{shown} is a Databricks workspace, which takes no experiment with the plain name of "
            "a sweep; use a sqlite file or an MLflow server of your own"
        )
    if name in ("databricks-uc", "uc"):
        raise UserError(
            f"{shown} is a Unity Catalog, which holds models and no runs; use a sqlite file or an "
            "MLflow server"
        )
    if scheme in ("http", "https"):
        _check_server_address(uri)
    elif _HOST_AND_PORT.match(uri):
        # Only behind a scheme is a password recognized.
        address = without_passwords(f"http://{uri}")
        raise UserError(
            f"tracking.uri {address.removeprefix('http://')} has no scheme; write {address}"
        )
    elif scheme in _MISSPELLED or (scheme not in ("", "file") and not uri.startswith(scheme)):
        right = _MISSPELLED.get(scheme, scheme)
        raise UserError(f"{shown} has a scheme that MLflow doesn't know; begin it with {right}:")
    if scheme not in ("", "file"):
        return
    path = Path(_local_path(uri) or uri).expanduser().absolute()
    if path.is_file():
        raise UserError(f"{shown} is a path; write it as {sqlite_uri(str(path))}")
    old_runs = ""
    # MLflow's file store has a folder with this file for each experiment.
    if any(path.glob("*/meta.yaml")):
        old_runs = " (mlflow migrate-filestore copies the runs that are there)"
    raise UserError(
        f"{shown} is a folder, which MLflow no longer writes to; "
        f"use {sqlite_uri(f'{path}/mlflow.db')}{old_runs}"
    )


def _check_server_address(uri: str) -> None:
    """Raise UserError for the address of a page in the browser, or one without a host."""
    shown = f"tracking.uri {without_passwords(uri)}"
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise UserError(f"{shown} can't be used ({error}); write http://HOST:PORT") from None
    if not parts.hostname:
        raise UserError(f"{shown} has no host; write http://HOST:PORT")
    # Requests are appended to the address, so they would become part of the fragment or query.
    if "#" in uri or "?" in uri:
        server = without_passwords(urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")))
        raise UserError(f"{shown} is the address of a page; write that of its server, {server}")


def _check_sqlite(uri: str, create: bool) -> None:
    """Raise UserError if the sqlite file can't be used. MLflow itself would retry for minutes."""
    path = sqlite_path(uri)
    if path.is_dir():
        raise UserError(
            f"tracking.uri {without_passwords(uri)} is a folder; "
            f"name a file in it: {sqlite_uri(f'{path}/mlflow.db')}"
        )
    if path.exists() and not path.is_file():
        raise UserError(
            f"tracking.uri {without_passwords(uri)} is not a regular file; "
            "name a database that you can use"
        )
    if not path.exists():
        if not create:
            raise UserError(
                f"tracking.uri {without_passwords(uri)} does not exist; run a sweep first, "
                "or name the storage of an earlier one with --storage or --tracking-uri"
            )
        with _sqlite_errors_as_user_error(uri, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
        _check_folder(uri, path)
        return
    if not create:
        # Whether it can be read, `_check_tables` finds out.
        return
    with _sqlite_errors_as_user_error(uri, "written"):
        # Not `connect(path)`, which would create a file.
        address = f"{path.as_uri()}?mode=rw"
        with closing(sqlite3.connect(address, timeout=ANSWER_SECONDS, uri=True)) as connection:
            # See that the lock can be taken.
            connection.execute("BEGIN IMMEDIATE")
        # sqlite also grants the lock on a read-only file.
        if not os.access(path, os.W_OK):
            raise PermissionError("you have no permission to write it")


def _check_folder(uri: str, path: Path) -> None:
    """Raise UserError if a missing sqlite file can't be created."""
    with _sqlite_errors_as_user_error(uri, "written"):
        # The folders that are missing can be created if the nearest one above them is writable.
        folder = next(parent for parent in path.parents if parent.exists())
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is not a folder")
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"you have no permission to write in {folder}")


@contextmanager
def _sqlite_errors_as_user_error(uri: str, action: str) -> Iterator[None]:
    """Turn errors of a sqlite file into a UserError.

    Args:
        uri: MLflow tracking URI of the file.
        action: "read" or "written", whichever can't be done.

    Raises:
        UserError: the block raised OSError, or an error of sqlite or MLflow.
    """
    try:
        yield
    except (OSError, sqlite3.Error, MlflowException, SQLAlchemyError) as error:
        raise UserError(
            f"tracking.uri {without_passwords(uri)} can't be {action} ({first_line(error)}); "
            "name a database that you can use"
        ) from None


def _check_tables(uri: str, create: bool) -> None:
    """Create the tables of a new sqlite file; leave those of another MLflow as they are.

    Raises:
        UserError: this MLflow can't use the tables, or there are none to read.
    """
    if is_sqlite(uri):
        with _sqlite_errors_as_user_error(uri, "read"):
            schema = read_schema(uri)
    else:
        try:
            schema = read_schema(uri)
        except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
            raise UserError(
                f"tracking.uri {without_passwords(uri)} {_why_unusable(error)}"
            ) from None
    check_schema(uri, schema)
    if schema.tables:
        return
    if not create:
        raise UserError(
            f"tracking.uri {without_passwords(uri)} holds no runs; run a sweep first, "
            "or name the storage of an earlier one with --storage or --tracking-uri"
        )
    if is_sqlite(uri):
        with _sqlite_errors_as_user_error(uri, "written"):
            create_sqlite(sqlite_path(uri))


def _check_port(uri: str, scheme: str) -> None:
    """Raise UserError if nothing listens on the port of a database server."""
    try:
        address = make_url(uri)
        port = address.port or _DATABASE_PORTS[scheme]
        socket.create_connection((address.host or "localhost", port), ANSWER_SECONDS).close()
    except (OSError, ValueError, SQLAlchemyError) as error:
        raise UserError(
            f"tracking.uri {without_passwords(uri)} doesn't answer ({error}); "
            "start the database or fix the address"
        ) from None


def _checked_client(uri: str) -> MlflowClient:
    """Return a client that has answered one small request, or raise UserError."""
    try:
        with fail_fast():
            # Creating a client of an HTTP server sends no request, so send one.
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, ImportError, OSError, ValueError) as error:
        raise UserError(f"tracking.uri {without_passwords(uri)} {_why_unusable(error)}") from None
    return client


def _why_unusable(error: Exception) -> str:
    """Return the end of an error message: what is wrong with the tracking URI, and what to do."""
    reason = without_passwords(first_line(error))[:160]
    # By name: MLflow has one such class for each of its stores, for tracking and models.
    if type(error).__name__.startswith("Unsupported"):
        return "has a scheme that MLflow doesn't know; write sqlite:///FILE or http://HOST:PORT"
    if isinstance(error, ImportError):
        return (
            f"needs a database driver ({reason}); "
            "install it, for PostgreSQL with pip install psycopg2-binary"
        )
    # By words of MLflow and requests: all of these errors have the same class.
    if "SSLError" in str(error):
        return (
            "can't be reached over https: its certificate is not trusted, or it serves http only; "
            "write http:// or fix the certificate"
        )
    if "valid JSON" in reason or re.search(r"error code (?:404|405|501)\b", reason):
        return (
            "answers, but not as an MLflow server; write the address that mlflow server printed, "
            "with the path at which a proxy serves it"
        )
    # If a request failed, whatever the reason.
    if "failed with exception" in reason:
        return (
            f"did not answer within {ANSWER_SECONDS} s; "
            "start the server (mlflow server) or fix the address"
        )
    return f"can't be used ({reason}); fix the address or the credentials"

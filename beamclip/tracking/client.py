"""Connect to a tracking server or database, and fail within seconds if it doesn't answer."""

import logging
import os
import socket
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from beamclip.config import UserError, first_line
from beamclip.config.provenance import without_passwords

# Re-exported for `beamclip.reporting`, which must not import mlflow itself.
__all__ = ["MlflowClient", "Run"]

# A server or a locked database that has not answered after this time is an error. MLflow's own
# defaults retry for minutes.
ANSWER_SECONDS = 4
# Default port of each kind of database server.
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_ARTIFACTS = "/artifacts"
# Columns of MLflow's database that hold paths of artifacts.
_PATH_COLUMNS = (("experiments", "artifact_location"), ("runs", "artifact_uri"))
_log = logging.getLogger(__name__)


def connect(uri: str, *, create: bool = True) -> MlflowClient:
    """Return a client of a tracking server or database, after checking that it answers.

    If a sqlite file was moved together with its artifacts, the paths in it are updated.

    Args:
        uri: MLflow tracking URI.
        create: True to create a missing sqlite file with its folder and tables; False to only
            read.

    Raises:
        UserError: the URI is of an unknown kind, or its server or file can't be used.
    """
    _silence_mlflow()

    # Check first what fails slowly in MLflow. The scheme of postgresql+psycopg2://… is postgresql.
    scheme = uri.partition(":")[0].partition("+")[0] if ":" in uri else ""
    if scheme in ("", "file"):
        raise UserError(
            f"tracking.uri {without_passwords(uri)} is a folder, which MLflow no longer writes to; "
            f"use sqlite:///{uri}/mlflow.db"
        )
    if scheme == "sqlite":
        _check_sqlite(uri, create)
    elif scheme in _DATABASE_PORTS:
        _check_port(uri, scheme)

    if create:
        # The first client creates MLflow's tables. Two clients at once would both try to create
        # the same ones.
        with database_lock(uri):
            client = _checked_client(uri)
    else:
        client = _checked_client(uri)
    if scheme == "sqlite" and (database := make_url(uri).database):
        relocate_artifacts(Path(database).absolute())
    return client


@contextmanager
def database_lock(uri: str) -> Iterator[None]:
    """Hold a lock file next to a sqlite file. For a server, do nothing.

    It only excludes processes that call this function too.
    """
    database = make_url(uri).database if uri.startswith("sqlite") else None
    if not database:
        yield
        return
    with FileLock(f"{database}.lock"):
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
    database = make_url(uri).database if uri.startswith("sqlite") else None
    return str(Path(database).resolve().parent / "artifacts" / name) if database else None


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


def _moved_roots(uris: Iterable[str], new_root: Path) -> set[str]:
    """Return the old roots that no longer exist but whose runs' files are found below `new_root`.

    Args:
        uris: artifact URIs of runs. Only plain paths with a folder `artifacts` are considered.
        new_root: folder of the database.
    """
    roots = set()
    for uri in uris:
        if not uri or "://" in uri or f"{_ARTIFACTS}/" not in uri:
            continue
        old_root, _, rest = uri.partition(f"{_ARTIFACTS}/")
        if old_root != str(new_root) and (new_root / "artifacts" / rest).exists():
            roots.add(old_root)
    return {root for root in roots if not Path(root).exists()}


def _replace_root(connection: sqlite3.Connection, old_root: str, new_root: str) -> None:
    """Replace a folder at the beginning of all artifact paths in the database."""
    old = f"{old_root}{_ARTIFACTS}"
    new = f"{new_root}{_ARTIFACTS}"
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


def _check_sqlite(uri: str, create: bool) -> None:
    """Raise UserError if the sqlite file can't be used. MLflow itself would retry for minutes."""
    database = make_url(uri).database
    if not database or database == ":memory:":
        raise UserError(
            f"tracking.uri {without_passwords(uri)} names no file, so nothing would be kept; "
            "write sqlite:///FOLDER/mlflow.db"
        )
    if not create and not Path(database).is_file():
        raise UserError(
            f"tracking.uri {without_passwords(uri)} does not exist; run a sweep first, "
            "or name the storage of an earlier one with --storage or --tracking-uri"
        )
    try:
        Path(database).parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(database, timeout=ANSWER_SECONDS)) as connection:
            # To write, see that the lock can be taken. To read, see that it is an sqlite file.
            connection.execute("BEGIN IMMEDIATE" if create else "PRAGMA schema_version")
        # sqlite also grants the lock on a read-only file.
        if create and not os.access(database, os.W_OK):
            raise PermissionError("you have no permission to write it")
    except (OSError, sqlite3.Error) as error:
        action = "written" if create else "read"
        raise UserError(
            f"tracking.uri {without_passwords(uri)} can't be {action} ({error}); "
            "name a database that you can use"
        ) from None


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
    # MLflow's words if a request failed, whatever the reason.
    if "failed with exception" in reason:
        return (
            f"did not answer within {ANSWER_SECONDS} s; "
            "start the server (mlflow server) or fix the address"
        )
    return f"can't be used ({reason}); fix the address or the credentials"

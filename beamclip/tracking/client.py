"""Connect to a tracking server or database; one that doesn't answer is an error within seconds."""

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

# MlflowClient and Run are for `reporting`, which must not import mlflow itself.
__all__ = ["MlflowClient", "Run"]

ANSWER_SECONDS = 4
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_ARTIFACTS = "/artifacts"
# Columns of MLflow's database that hold paths of artifacts.
_PATH_COLUMNS = (("experiments", "artifact_location"), ("runs", "artifact_uri"))
_log = logging.getLogger(__name__)


def connect(uri: str, *, create: bool = True) -> MlflowClient:
    """Return a client of a tracking server or database that has answered.

    Args:
        uri: tracking URI.
        create: create a missing sqlite file, with its folder.

    Raises:
        UserError: the URI is of an unknown kind, or its server or file can't be used.
    """
    _silence_mlflow()
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
        # The first client creates MLflow's tables, and two at once create some of them twice.
        with database_lock(uri):
            client = _checked_client(uri)
    else:
        client = _checked_client(uri)
    if scheme == "sqlite" and (database := make_url(uri).database):
        relocate_artifacts(Path(database).absolute())
    return client


@contextmanager
def database_lock(uri: str) -> Iterator[None]:
    """Hold a lock on a sqlite file, against others that ask for it. Does nothing for a server."""
    database = make_url(uri).database if uri.startswith("sqlite") else None
    if not database:
        yield
        return
    with FileLock(f"{database}.lock"):
        yield


@contextmanager
def fail_fast() -> Iterator[None]:
    """Make MLflow's requests fail within seconds and without retries.

    For checking that a server answers, and for the last requests of an interrupted process.
    MLflow reads these variables at every request.
    """
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
    """Return a folder next to the sqlite file; None for a server, which has its own default.

    For a sqlite file MLflow's default would be the working directory.
    """
    database = make_url(uri).database if uri.startswith("sqlite") else None
    return str(Path(database).resolve().parent / "artifacts" / name) if database else None


def find_or_create_experiment(client: MlflowClient, name: str, artifact_root: str | None) -> str:
    """Return the id of the experiment of this name. A deleted experiment is restored.

    Args:
        client: of the tracking server.
        name: of the experiment.
        artifact_root: used only if the experiment is created.

    Raises:
        UserError: it can't be created.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location=artifact_root)
        except MlflowException as error:
            # Another sweep may have created it a moment earlier.
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
    """
    # Errors are ignored: a read-only database keeps its old paths.
    with suppress(sqlite3.Error), closing(sqlite3.connect(database)) as connection, connection:
        uris = [uri for (uri,) in connection.execute("SELECT artifact_uri FROM runs")]
        for old_root in _moved_roots(uris, database.parent):
            _replace_root(connection, old_root, str(database.parent))


def _moved_roots(uris: Iterable[str], new_root: Path) -> set[str]:
    """Return old roots that no longer exist but whose runs' files are found below `new_root`."""
    roots = set()
    for uri in uris:
        if not uri or "://" in uri or f"{_ARTIFACTS}/" not in uri:
            continue
        old_root, _, rest = uri.partition(f"{_ARTIFACTS}/")
        if old_root != str(new_root) and (new_root / "artifacts" / rest).exists():
            roots.add(old_root)
    return {root for root in roots if not Path(root).exists()}


def _replace_root(connection: sqlite3.Connection, old_root: str, new_root: str) -> None:
    old = f"{old_root}{_ARTIFACTS}"
    new = f"{new_root}{_ARTIFACTS}"
    for table, column in _PATH_COLUMNS:
        # sqlite counts characters from 1, so that the rest of the path starts at len(old) + 1.
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
            f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
            (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
        )


def _silence_mlflow() -> None:
    # MLflow and alembic log every table they create, and print a link for every run that ends,
    # which would break progress bars.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def _check_sqlite(uri: str, create: bool) -> None:
    """Raise UserError if the sqlite file can't be used; MLflow would retry for minutes."""
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
            # Take the write lock once, or only read the header.
            connection.execute("BEGIN IMMEDIATE" if create else "PRAGMA schema_version")
        # The lock can be taken on a file that can't be written.
        if create and not os.access(database, os.W_OK):
            raise PermissionError("you have no permission to write it")
    except (OSError, sqlite3.Error) as error:
        action = "written" if create else "read"
        raise UserError(
            f"tracking.uri {without_passwords(uri)} can't be {action} ({error}); "
            "name a database that you can use"
        ) from None


def _check_port(uri: str, scheme: str) -> None:
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
    try:
        with fail_fast():
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, ImportError, OSError, ValueError) as error:
        raise UserError(f"tracking.uri {without_passwords(uri)} {_why_unusable(error)}") from None
    return client


def _why_unusable(error: Exception) -> str:
    reason = without_passwords(first_line(error))[:160]
    if type(error).__name__.startswith("Unsupported"):
        return "has a scheme that MLflow doesn't know; write sqlite:///FILE or http://HOST:PORT"
    if isinstance(error, ImportError):
        return (
            f"needs a database driver ({reason}); "
            "install it, for PostgreSQL with pip install psycopg2-binary"
        )
    if "failed with exception" in reason:
        return (
            f"did not answer within {ANSWER_SECONDS} s; "
            "start the server (mlflow server) or fix the address"
        )
    return f"can't be used ({reason}); fix the address or the credentials"

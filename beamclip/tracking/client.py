"""The way to a tracking server or database: one that does not answer is found in seconds and told in a sentence."""

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

__all__ = ["MlflowClient", "Run"]  # for `reporting`, which must not import mlflow itself

# MLflow's sqlite file after the folder it lies in was moved: its runs still say where their files were.


_PART = "/artifacts"
_WHERE = (("experiments", "artifact_location"), ("runs", "artifact_uri"))


def follow_move(database: Path) -> None:
    """Have experiments and runs look for their files beside the database, where both were moved together from a folder that is gone.

    MLflow has no call for it. Nothing is changed of what lies elsewhere, nor where none of the files is found beside the database.
    """
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(database)) as connection,
        connection,
    ):  # read only: they are looked for in vain
        uris = [uri for (uri,) in connection.execute("SELECT artifact_uri FROM runs")]
        for old in _gone(uris, database.parent):
            _rename(connection, old, str(database.parent))


def _gone(uris: Iterable[str], here: Path) -> set[str]:
    """Folders that are there no more, while files of a run in one of them are found in this one."""
    parts = [
        uri.partition(f"{_PART}/")
        for uri in uris
        if uri and "://" not in uri and f"{_PART}/" in uri
    ]
    found = {
        old for old, _, rest in parts if old != str(here) and (here / "artifacts" / rest).exists()
    }
    return {old for old in found if not Path(old).exists()}


def _rename(connection: sqlite3.Connection, old: str, new: str) -> None:
    before = f"{old}{_PART}"
    for table, column in _WHERE:
        change = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?"
        connection.execute(
            change, (f"{new}{_PART}", len(before) + 1, before, len(before) + 1, f"{before}/")
        )


ANSWER_SECONDS = 4
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_log = logging.getLogger(__name__)


def connect(uri: str, *, create: bool = True) -> MlflowClient:
    """A client that has been answered once. `create`: a missing sqlite file is made, with its folder.

    Raises:
        UserError: the URI is of an unknown kind, or what it names doesn't answer or can't be written.
    """
    _silence()
    scheme = uri.partition(":")[0].partition("+")[0] if ":" in uri else ""
    if scheme in ("", "file"):
        raise UserError(
            f"tracking.uri {without_passwords(uri)} is a folder, which MLflow no longer writes to; use sqlite:///{uri}/mlflow.db"
        )
    if scheme == "sqlite":
        _check_sqlite(uri, create)
    elif scheme in _DATABASE_PORTS:
        _check_port(uri, scheme)
    if not create:
        client = _answered_client(uri)
    else:
        with alone(
            uri
        ):  # the first client makes MLflow's tables, and two at once make some of them twice
            client = _answered_client(uri)
    if database := make_url(uri).database if scheme == "sqlite" else None:
        follow_move(Path(database).absolute())
    return client


@contextmanager
def alone(uri: str) -> Iterator[None]:
    """While others keep out who use the same sqlite file and ask to be alone, too. A server is never kept from anybody."""
    database = make_url(uri).database if uri.startswith("sqlite") else None
    if not database:
        yield
        return
    with FileLock(f"{database}.lock"):
        yield


def _silence() -> None:
    """MLflow and alembic tell of every table they make and print a link for every run that ends: progress bars tear."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def _check_sqlite(uri: str, create: bool) -> None:
    """MLflow would retry an unwritable file for minutes: take the write lock once ourselves."""
    database = make_url(uri).database
    if not database or database == ":memory:":
        raise UserError(
            f"tracking.uri {without_passwords(uri)} names no file, so nothing would be kept; write sqlite:///FOLDER/mlflow.db"
        )
    if not create and not Path(database).is_file():
        mend = "run a sweep first, or say where one was run with --storage or --tracking-uri"
        raise UserError(f"tracking.uri {without_passwords(uri)} does not exist; {mend}")
    try:
        Path(database).parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(database, timeout=ANSWER_SECONDS)) as connection:
            connection.execute("BEGIN IMMEDIATE" if create else "PRAGMA schema_version")
        if create and not os.access(database, os.W_OK):  # which the lock alone does not tell
            raise PermissionError("it belongs to somebody else")
    except (OSError, sqlite3.Error) as error:
        use = "written" if create else "read"
        raise UserError(
            f"tracking.uri {without_passwords(uri)} can't be {use} ({error}); name a database that you may use"
        ) from None


def _check_port(uri: str, scheme: str) -> None:
    try:
        address = make_url(uri)
        port = address.port or _DATABASE_PORTS[scheme]
        socket.create_connection((address.host or "localhost", port), ANSWER_SECONDS).close()
    except (OSError, ValueError, SQLAlchemyError) as error:
        reason = f"doesn't answer ({error}); start the database or mend the address"
        raise UserError(f"tracking.uri {without_passwords(uri)} {reason}") from None


def _answered_client(uri: str) -> MlflowClient:
    try:
        with impatient():
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, ImportError, OSError, ValueError) as error:
        raise UserError(f"tracking.uri {without_passwords(uri)} {_reason(error)}") from None
    return client


@contextmanager
def impatient() -> Iterator[None]:
    """No retries and a short wait, to look whether anybody is there or because we must end soon; MLflow reads these at every request."""
    names = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict(zip(names, ("0", str(ANSWER_SECONDS)), strict=True)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _reason(error: Exception) -> str:
    first = without_passwords(str(error).strip().split("\n")[0])[:160]
    if type(error).__name__.startswith("Unsupported"):
        return "has a scheme that MLflow doesn't know; write sqlite:///FILE or http://HOST:PORT"
    if isinstance(error, ImportError):
        return f"needs a database driver ({first}); install it, for PostgreSQL with pip install psycopg2-binary"
    if "failed with exception" in first:
        return f"did not answer within {ANSWER_SECONDS} s; start the server (mlflow server) or mend the address"
    return f"can't be used ({first}); mend the address or the credentials"


@contextmanager
def told(
    what: str, mend: str = "mend the tracking server and go on with --resume"
) -> Iterator[None]:
    """Turn a tracking server's or its file system's errors into a sentence.

    Raises:
        UserError: what could not be done (`what`, such as "plots can't be written"), why, and what to do.
    """
    try:
        yield
    except (MlflowException, OSError) as error:
        raise UserError(f"{what} ({without_passwords(first_line(error))}); {mend}") from None


def default_artifacts(uri: str, name: str) -> str | None:
    """Beside a sqlite file, where MLflow would take the working directory; a server decides for itself."""
    database = make_url(uri).database if uri.startswith("sqlite") else None
    return str(Path(database).resolve().parent / "artifacts" / name) if database else None


def find_or_create_experiment(client: MlflowClient, name: str, artifact_root: str | None) -> str:
    """The id of the experiment `name`; a deleted one is restored. `artifact_root` counts only when it is made."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifact_root)
        except MlflowException as error:
            found = client.get_experiment_by_name(
                name
            )  # another sweep may have been a moment faster
            if found is None:
                first = str(error).splitlines()[0]
                raise UserError(
                    f"MLflow experiment {name} can't be made ({first}); mend the server"
                ) from None
    if found.lifecycle_stage == "deleted":
        _log.warning(
            "MLflow experiment %s had been deleted; it is restored, with its old runs.", name
        )
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def search_all(client: MlflowClient, experiment_id: str, where: str) -> list[Run]:
    """Every run that the filter finds, newest first, page by page."""
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment_id], where, order_by=["attributes.start_time DESC"], page_token=token
        )
        runs += page
        token = page.token
        if not token:
            return runs

"""Create, check and upgrade the database that MLflow keeps its runs in.

MLflow creates the tables of a new database, and migrates those of an older MLflow, whenever it
opens one, in many small transactions and also if it is only asked to read. A process that is killed
meanwhile leaves tables that no MLflow can open, and an MLflow older than the migration can't open
the database any more. So the tables are looked at before MLflow opens the database, a new sqlite
file is created under another name and linked when it is complete, and nothing is migrated
automatically.
"""

import os
import shlex
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import NoReturn

import mlflow
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils as mlflow_tables
from mlflow.store.db.base_sql_model import Base
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from beamclip.config import UserError, first_line
from beamclip.config.provenance import without_passwords
from beamclip.stores.io import fsync_file, temporary_path
from beamclip.stores.paths import is_sqlite, sqlite_uri

# alembic's own table, with one row: the revision of all other tables.
_REVISION_TABLE = "alembic_version"
# sqlite's files of unfinished transactions, next to the database.
_SIDE_FILES = ("-journal", "-wal", "-shm")

# How long to wait for another process that holds the lock of a sqlite file.
BUSY_SECONDS = 4


@dataclass(frozen=True)
class Schema:
    """What a database holds, as far as it decides whether this MLflow can use it.

    Attributes:
        tables: names of the tables; empty if there is no database yet.
        revision: alembic's revision of the tables, or None.
        experiments: True if there is an MLflow experiment. Every MLflow creates one as soon as all
            tables are there, before anything else is written.
    """

    tables: frozenset[str] = frozenset()
    revision: str | None = None
    experiments: bool = False


def sqlite_path(uri: str) -> Path:
    """Return the absolute path of a sqlite file, without links.

    Raises:
        UserError: the URI names no file.
    """
    try:
        address = make_url(uri)
    except ArgumentError:
        _refuse_sqlite(uri, "is not a URI of a file")
    database = address.database
    if address.host:
        _refuse_sqlite(uri, "has a slash too few before its path")
    if not database or database == ":memory:":
        _refuse_sqlite(uri, "names no file, so nothing would be kept")
    if database.startswith(("file:", "~")):
        _refuse_sqlite(uri, f"has a path that starts with {database[:5].partition('/')[0]}")
    return Path(os.path.realpath(database))


def _refuse_sqlite(uri: str, problem: str) -> NoReturn:
    raise UserError(
        f"tracking.uri {without_passwords(uri)} {problem}; write sqlite:////FOLDER/mlflow.db, "
        "with the whole path of the file"
    )


def read_schema(uri: str) -> Schema:
    """Read what a database holds, without writing to it.

    Raises:
        sqlite3.Error, SQLAlchemyError: it can't be read.
        UserError: the URI of a sqlite file names no file.
    """
    if is_sqlite(uri):
        return _read_sqlite(sqlite_path(uri))
    engine = create_engine(uri)
    try:
        return _read_server(engine)
    finally:
        engine.dispose()


def _read_sqlite(path: Path) -> Schema:
    if not path.exists():
        return Schema()
    try:
        return _read_sqlite_in_mode(path, "ro")
    except sqlite3.OperationalError:
        if not any(file.exists() for file in _side_files(path)):
            raise
        # A killed process left a transaction to roll back, and sqlite refuses to do that for a
        # read-only connection. The next process that opens the file would do it.
        return _read_sqlite_in_mode(path, "rw")


def _read_sqlite_in_mode(path: Path, mode: str) -> Schema:
    # `Path.as_uri` encodes `?` and `#`.
    address = f"{path.as_uri()}?mode={mode}"
    with closing(sqlite3.connect(address, timeout=BUSY_SECONDS, uri=True)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = frozenset(name for (name,) in rows if not name.startswith("sqlite_"))
        revision = experiment = None
        if _REVISION_TABLE in tables:
            revision = connection.execute(f"SELECT version_num FROM {_REVISION_TABLE}").fetchone()
        if "experiments" in tables:
            experiment = connection.execute("SELECT 1 FROM experiments LIMIT 1").fetchone()
    return Schema(tables, revision[0] if revision else None, experiment is not None)


def _read_server(engine: Engine) -> Schema:
    tables = frozenset(inspect(engine).get_table_names())
    revision = experiment = None
    with engine.connect() as connection:
        if _REVISION_TABLE in tables:
            query = text(f"SELECT version_num FROM {_REVISION_TABLE}")
            revision = connection.execute(query).first()
        if "experiments" in tables:
            experiment = connection.execute(text("SELECT experiment_id FROM experiments")).first()
    return Schema(tables, revision[0] if revision else None, experiment is not None)


@cache
def _scripts() -> ScriptDirectory:
    """Return the migrations of the installed MLflow."""
    return ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))


def _is_known(revision: str) -> bool:
    try:
        return _scripts().get_revision(revision) is not None
    except CommandError:
        return False


def check_schema(uri: str, schema: Schema) -> None:
    """Raise UserError if the installed MLflow can't use a database as it is.

    Args:
        uri: MLflow tracking URI, for the message.
        schema: what the database holds. An empty one passes.
    """
    shown = f"tracking.uri {without_passwords(uri)}"
    if not schema.tables or schema.revision == _scripts().get_current_head():
        return
    # Other programs use alembic too.
    others = schema.tables - {_REVISION_TABLE}
    if others and not others & set(Base.metadata.tables):
        named = ", ".join(sorted(others)[:3])
        raise UserError(
            f"{shown} is a database of another program, with the tables {named}; "
            "name a file for MLflow alone"
        )
    if schema.revision is not None and not _is_known(schema.revision):
        raise UserError(
            f"{shown} was written by a newer MLflow: MLflow {mlflow.__version__} does not know its "
            f"revision {schema.revision}; install the newest (pip install -U mlflow) or name "
            "another database with --tracking-uri"
        )
    if not schema.experiments:
        raise UserError(
            f"{shown} is unfinished, because the process that created it was stopped, and holds no "
            f"runs; {_remove_command(uri)} and start again"
        )
    raise UserError(
        f"{shown} was written by an older MLflow (revision {schema.revision or 'unknown'}; MLflow "
        f"{mlflow.__version__} needs {_scripts().get_current_head()}) and is not upgraded "
        f"automatically; {_upgrade_command(uri)}, or install the MLflow that wrote it"
    )


def _remove_command(uri: str) -> str:
    """Return what to type to delete an unfinished database."""
    if not is_sqlite(uri):
        return "drop its tables"
    path = sqlite_path(uri)
    files = [str(file) for file in (path, *_side_files(path)) if file.exists()]
    return f"delete it ({shlex.join(['rm', *files])})"


def _upgrade_command(uri: str) -> str:
    """Return what to type to upgrade a database."""
    shown = shlex.quote(without_passwords(uri))
    if not is_sqlite(uri):
        return f"to upgrade it, back it up and run  mlflow db upgrade {shown}"
    return (
        "to upgrade it, and keep a copy, run  "
        f"beamclip doctor --upgrade-tracking --tracking-uri {shown}"
    )


def create_sqlite(path: Path) -> None:
    """Create a database with MLflow's tables, unless there is one. It appears complete or not.

    The caller holds `beamclip.tracking.client.database_lock`.

    Args:
        path: absolute path of the file. A file without tables is replaced.

    Raises:
        OSError, sqlite3.Error, MlflowException, SQLAlchemyError: it can't be created.
    """
    if _read_sqlite(path).tables:
        return
    # Files of processes that were killed here: no other process has the lock. sqlite would apply a
    # journal of an earlier, deleted database to the new one.
    for left_over in [*path.parent.glob(f".{path.name}.*.tmp*"), *_side_files(path)]:
        left_over.unlink(missing_ok=True)
    temporary = temporary_path(path)
    try:
        _initialize(temporary, mlflow_tables._initialize_tables)
        _publish(temporary, path)
    finally:
        _remove(temporary)


def _publish(temporary: Path, path: Path) -> None:
    """Give a complete database its name, unless another process created one there meanwhile."""
    # Where file locks do not work, as on some network file systems, the lock excluded no other
    # process. `os.link` fails if the name is taken.
    if path.exists():
        if not _read_sqlite(path).tables:
            os.replace(temporary, path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:
        # This file system has no links.
        os.replace(temporary, path)


def upgrade_sqlite(uri: str) -> Path | None:
    """Migrate a sqlite file of an older MLflow to the installed one; keep the file as it was.

    The caller holds `beamclip.tracking.client.database_lock`. A copy is migrated and takes the
    file's name when it is complete. So at any time the old or the new MLflow can use the file.

    Args:
        uri: MLflow tracking URI of the file.

    Returns:
        Path of the old file; None if there was nothing to upgrade.

    Raises:
        UserError: it is not of an older MLflow, it is in use, or MLflow can't migrate it.
    """
    path = sqlite_path(uri)
    schema = _read_sqlite(path)
    if not schema.tables or schema.revision == _scripts().get_current_head():
        return None
    if not schema.experiments or (schema.revision and not _is_known(schema.revision)):
        check_schema(uri, schema)
    before, after = temporary_path(path), temporary_path(path)
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
            # A write-ahead log of the old file must not be applied to the new one.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            # No other process may write until the new file is in place.
            connection.execute("BEGIN IMMEDIATE")
            for copy in (before, after):
                with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(copy)) as new:
                    old.backup(new)
            _initialize(after, mlflow_tables._upgrade_db)
            fsync_file(before)
            kept = _free_name(path, schema.revision)
            os.replace(before, kept)
            os.replace(after, path)
    except (OSError, sqlite3.Error, MlflowException, SQLAlchemyError, CommandError) as error:
        raise UserError(
            f"tracking.uri {without_passwords(uri)} can't be upgraded ({first_line(error)}) and is "
            "unchanged; stop what uses it, or install the MLflow that wrote it"
        ) from None
    finally:
        for file in (before, after):
            _remove(file)
    return kept


def _free_name(path: Path, revision: str | None) -> Path:
    """Return a name for the old file, such as `mlflow.db.REVISION`, that is not taken."""
    name = f"{path.name}.{revision or 'old'}"
    candidates = (path.with_name(f"{name}.{number}") for number in count(2))
    return next(file for file in chain([path.with_name(name)], candidates) if not file.exists())


def _initialize(path: Path, make_tables: Callable[[Engine], None]) -> None:
    """Apply a function of MLflow's to a sqlite file, and wait until all of it is on disk."""
    engine = mlflow_tables.create_sqlalchemy_engine(  # type: ignore[no-untyped-call]
        sqlite_uri(str(path))
    )
    try:
        make_tables(engine)
    finally:
        # Without open connections sqlite's own files are gone, so that one rename is all.
        engine.dispose()
    fsync_file(path)


def _remove(path: Path) -> None:
    for file in (path, *_side_files(path)):
        file.unlink(missing_ok=True)


def _side_files(path: Path) -> list[Path]:
    return [Path(f"{path}{ending}") for ending in _SIDE_FILES]

import hashlib
import multiprocessing
import os
import random
import re
import shutil
import sqlite3
import time
from contextlib import closing

import pytest
from alembic import command
from mlflow import MlflowClient
from mlflow.store.db import utils as mlflow_tables
from sqlalchemy import create_engine

from beamclip.cli.main import main
from beamclip.config import UserError
from beamclip.tracking import connect, database, describe_tracking, upgrade_tracking
from beamclip.tracking.client import find_or_create_experiment

HEAD = mlflow_tables._get_latest_schema_revision()
# The last but one revision that MLflow itself has.
OLDER = database._scripts().get_revision(HEAD).down_revision
# A revision in the middle of the migrations of a new database.
MIDDLE = "3500859a5d39"


def change(path, *statements):
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def content_hash(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def in_child(function, *arguments):
    """Start a forked process, in which MLflow is imported already."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


@pytest.fixture
def path(uri, tmp_path):
    """The file of `uri`, with MLflow's tables."""
    return tmp_path / "mlflow.db"


@pytest.fixture(scope="session")
def older_database(tmp_path_factory):
    """A database with one run, as the MLflow of the revision before this one leaves it."""
    path = tmp_path_factory.mktemp("older") / "older.db"
    engine = create_engine(f"sqlite:///{path}")
    mlflow_tables.InitialBase.metadata.create_all(engine)
    config = mlflow_tables._get_alembic_config(str(engine.url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, OLDER)
    engine.dispose()
    change(
        path,
        "INSERT INTO experiments (experiment_id, name, lifecycle_stage, workspace) "
        "VALUES (7, 'temp', 'active', 'default')",
        "INSERT INTO runs "
        "(run_uuid, name, experiment_id, lifecycle_stage, status, user_id, start_time) "
        "VALUES ('a0', 'mine', 7, 'active', 'FINISHED', 'me', 1)",
    )
    return path


@pytest.fixture
def older(older_database, tmp_path):
    path = tmp_path / "mlflow.db"
    shutil.copy(older_database, path)
    return path


# --- A new database ---


@pytest.mark.slow
def test_a_database_is_complete_or_missing_whenever_its_creation_is_killed(tmp_path):
    path = tmp_path / "mlflow.db"
    uri = f"sqlite:///{path}"
    moments = random.Random(7)
    for wait in [moments.uniform(0, 3) for _ in range(5)]:
        process = in_child(connect, uri)
        time.sleep(wait)
        process.kill()
        process.join()
        if path.exists():
            assert database.read_schema(uri).revision == HEAD
            path.unlink()
    assert connect(uri).search_experiments()[0].name == "Default"
    # What the killed processes had begun is removed.
    assert sorted(os.listdir(tmp_path)) == ["mlflow.db", "mlflow.db.lock"]


@pytest.mark.slow
def test_two_processes_that_start_at_once_share_one_new_database(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"

    def write(name):
        find_or_create_experiment(connect(uri), name, None)

    processes = [in_child(write, name) for name in ("a", "b")]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    names = sorted(experiment.name for experiment in connect(uri).search_experiments())
    assert names == ["Default", "a", "b"]


@pytest.mark.parametrize("links", [True, False])
def test_a_database_that_appeared_meanwhile_is_not_replaced(
    path, empty_database, tmp_path, monkeypatch, links
):
    if not links:
        monkeypatch.setattr(os, "link", lambda *paths: os.stat("/no such file"))
    change(path, "INSERT INTO experiments (name) VALUES ('theirs')")
    theirs = content_hash(path)
    ours = tmp_path / "ours"
    shutil.copy(empty_database, ours)
    database._publish(ours, path)
    assert content_hash(path) == theirs
    # It takes a free name, and that of a file without tables.
    path.unlink()
    for _ in range(2):
        database._publish(ours, path)
        assert content_hash(path) == content_hash(empty_database)
        ours.unlink(missing_ok=True)
        shutil.copy(empty_database, ours)
        path.write_bytes(b"")


@pytest.mark.slow
def test_the_journal_of_a_deleted_database_is_not_applied_to_the_new_one(tmp_path):
    (tmp_path / "mlflow.db").touch()
    (tmp_path / "mlflow.db-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(2000))
    connect(f"sqlite:///{tmp_path}/mlflow.db")
    assert not (tmp_path / "mlflow.db-journal").exists()


# --- A database that this MLflow can't use ---

UNFINISHED = {
    "migrated in part": [f"UPDATE alembic_version SET version_num = '{MIDDLE}'"],
    "first tables only": ["DELETE FROM alembic_version"],
    "no table for experiments": ["DROP TABLE alembic_version", "DROP TABLE experiments"],
}


@pytest.mark.parametrize("kind", list(UNFINISHED))
@pytest.mark.parametrize("create", [True, False])
def test_an_unfinished_database_is_named_with_the_command_that_deletes_it(uri, path, create, kind):
    change(path, "PRAGMA foreign_keys = OFF", "DELETE FROM experiments", *UNFINISHED[kind])
    before = content_hash(path)
    with pytest.raises(UserError) as caught:
        connect(uri, create=create)
    assert str(caught.value) == (
        f"tracking.uri {uri} is unfinished, because the process that created it was stopped, and "
        f"holds no runs; delete it (rm {path}) and start again"
    )
    assert content_hash(path) == before


def test_a_transaction_that_a_killed_process_left_is_rolled_back_to_read(uri, path):
    def be_killed():
        connection = sqlite3.connect(path, isolation_level=None)
        # A cache of one page, so that changes are written before the transaction ends.
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        connection.execute("CREATE TABLE filler AS SELECT * FROM sqlite_master")
        os.kill(os.getpid(), 9)

    in_child(be_killed).join()
    assert (path.parent / "mlflow.db-journal").stat().st_size
    connect(uri, create=False)
    assert database.read_schema(uri).revision == HEAD


def test_a_file_without_tables_holds_nothing_to_read(tmp_path):
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(UserError, match="holds no runs; run a sweep first"):
        connect(f"sqlite:///{tmp_path}/mlflow.db", create=False)
    assert not (tmp_path / "mlflow.db").stat().st_size


def test_a_database_of_another_program_is_refused(tmp_path):
    # Optuna uses alembic too.
    change(
        tmp_path / "study.db",
        "CREATE TABLE studies (id)",
        "CREATE TABLE alembic_version (version_num)",
        "INSERT INTO alembic_version VALUES ('v3.2.0.a')",
    )
    with pytest.raises(UserError, match="of another program, with the tables studies; name a file"):
        connect(f"sqlite:///{tmp_path}/study.db")


def test_a_newer_mlflow_is_named_with_the_whole_remedy(uri, path):
    change(path, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    for attempt in (connect, describe_tracking, upgrade_tracking):
        with pytest.raises(UserError) as caught:
            attempt(uri)
        assert re.fullmatch(
            r"tracking.uri \S+ was written by a newer MLflow: MLflow [\d.]+ does not know its "
            r"revision ffffffffffff; install the newest \(pip install -U mlflow\) or name another "
            r"database with --tracking-uri",
            str(caught.value),
        )


def test_what_a_server_holds_is_read_like_a_file(uri):
    engine = create_engine(uri)
    schema = database._read_server(engine)
    engine.dispose()
    assert schema == database.read_schema(uri)
    assert (schema.revision, schema.experiments) == (HEAD, True)


def test_an_unfinished_or_older_database_of_a_server_has_its_own_remedy():
    uri = "postgresql://me:secret@host/mlflow"
    tables = frozenset(["runs", "experiments", "alembic_version"])
    with pytest.raises(UserError, match="drop its tables and start again"):
        database.check_schema(uri, database.Schema(tables, MIDDLE))
    with pytest.raises(UserError, match="run  mlflow db upgrade 'postgresql") as caught:
        database.check_schema(uri, database.Schema(tables, MIDDLE, experiments=True))
    assert "secret" not in str(caught.value)
    database.check_schema(uri, database.Schema())


# --- A database of an older MLflow ---


@pytest.mark.slow
def test_a_database_of_an_older_mlflow_is_not_changed_until_its_upgrade_is_asked_for(
    older, tmp_path, capsys
):
    uri = f"sqlite:///{older}"
    before = content_hash(older)
    for words in (["compare", "temp"], ["report", "temp"], ["evaluate", "run:a0"]):
        with pytest.raises(SystemExit) as caught:
            main([*words, "--tracking-uri", uri])
        assert caught.value.code == 2
        printed = capsys.readouterr().err
        assert f"was written by an older MLflow (revision {OLDER}; MLflow " in printed
        assert f"run  beamclip doctor --upgrade-tracking --tracking-uri {uri}, or" in printed
        assert content_hash(older) == before
    for use in (connect, describe_tracking):
        with pytest.raises(UserError, match="is not upgraded automatically"):
            use(uri)
    assert content_hash(older) == before

    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--upgrade-tracking", "--tracking-uri", uri])
    assert caught.value.code == 0
    kept = tmp_path / f"mlflow.db.{OLDER}"
    assert capsys.readouterr().out == f"{uri} is upgraded; the old database is kept as {kept}\n"
    assert MlflowClient(uri).get_run("a0").info.run_name == "mine"
    assert database.read_schema(f"sqlite:///{kept}").revision == OLDER
    assert upgrade_tracking(uri) == f"{uri} needs no upgrade"


@pytest.mark.slow
def test_an_upgrade_that_fails_changes_nothing(older, tmp_path):
    # As an interrupted upgrade by MLflow itself leaves it: the next migration's work is done.
    change(older, "UPDATE alembic_version SET version_num = '181f10493468'")
    before = content_hash(older)
    with pytest.raises(UserError, match=r"can't be upgraded \(.*\) and is unchanged"):
        upgrade_tracking(f"sqlite:///{older}")
    assert content_hash(older) == before
    assert sorted(os.listdir(tmp_path)) == ["mlflow.db", "mlflow.db.lock"]


def test_a_database_in_use_is_not_upgraded(path, uri, monkeypatch):
    change(path, f"UPDATE alembic_version SET version_num = '{OLDER}'")
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    monkeypatch.setattr("beamclip.tracking.client.ANSWER_SECONDS", 0.1)
    holder = sqlite3.connect(path)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(UserError, match="locked"):
        upgrade_tracking(uri)
    holder.close()


def test_the_old_file_takes_a_name_that_is_free(tmp_path):
    path = tmp_path / "mlflow.db"
    for name in ("mlflow.db.ab", "mlflow.db.ab.2", "mlflow.db.ab.3"):
        assert database._free_name(path, "ab").name == name
        (tmp_path / name).touch()


# --- What doctor says ---


def test_a_missing_database_will_be_created_and_is_not_by_looking(tmp_path):
    uri = f"sqlite:///{tmp_path}/none/mlflow.db"
    assert describe_tracking(uri) == f"{uri} will be created"
    assert os.listdir(tmp_path) == []


def test_a_database_that_answers_is_said_to(uri):
    assert describe_tracking(uri) == f"{uri} answers"

import logging
import os
import shutil
import socket
import sqlite3
import time

import pytest

from beamclip.config import UserError
from beamclip.tracking import client, connect, fetch_student
from beamclip.tracking.client import find_or_create_experiment


@pytest.mark.slow
def test_a_server_that_accepts_but_never_answers_is_found_in_seconds():
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        began = time.monotonic()
        with pytest.raises(UserError, match="did not answer within 4 s"):
            connect(f"http://127.0.0.1:{mute.getsockname()[1]}")
        assert time.monotonic() - began < 10
    # Later requests have MLflow's own retries again.
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


@pytest.mark.parametrize("scheme", ["http", "postgresql", "mysql+pymysql"])
def test_a_closed_port_is_an_error_at_once_and_the_password_is_not_shown(scheme):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match="answer") as caught:
        connect(f"{scheme}://user:secret@127.0.0.1:{port}/db")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("carrier-pigeon://coop", "scheme that MLflow doesn't know"),
        ("mlruns", "is a folder"),
        ("sqlite://", "names no file"),
        ("postgresql://host:port/db", "doesn't answer"),
    ],
)
def test_an_impossible_uri_is_a_user_error(uri, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        connect(uri)
    assert "\n" not in str(caught.value)


def test_a_folder_that_can_not_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="can't be written"):
        connect(f"sqlite:///{tmp_path}/file/mlflow.db")


def test_a_file_that_is_not_a_database_is_an_error_and_is_not_changed(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database " * 100)
    with pytest.raises(UserError, match="not a database"):
        connect(f"sqlite:///{path}")
    assert path.read_text() == "not a database " * 100


def test_a_database_locked_by_another_writer_is_an_error(tmp_path, uri, monkeypatch):
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.1)
    holder = sqlite3.connect(tmp_path / "mlflow.db")
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(UserError, match="locked"):
        connect(uri)
    # Reading needs no lock.
    connect(uri, create=False)
    holder.close()


def test_reading_creates_no_database(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        connect(f"sqlite:///{tmp_path}/none/mlflow.db", create=False)
    assert not (tmp_path / "none").exists()


def test_mlflow_logs_no_details(uri):
    connect(uri)
    assert not logging.getLogger("mlflow.store.db.utils").isEnabledFor(logging.INFO)
    assert not logging.getLogger("alembic.runtime.migration").isEnabledFor(logging.INFO)


def test_a_deleted_experiment_is_restored_with_a_warning(uri, caplog):
    mlflow_client = connect(uri)
    first = find_or_create_experiment(mlflow_client, "temp", None)
    mlflow_client.delete_experiment(first)
    assert find_or_create_experiment(mlflow_client, "temp", None) == first
    assert mlflow_client.get_experiment(first).lifecycle_stage == "active"
    assert "restored" in caplog.text


@pytest.fixture
def moved_run(empty_database, tmp_path):
    """A run with a student, in a database in the folder `old`; returns the run's id."""
    (tmp_path / "old").mkdir()
    shutil.copy(empty_database, tmp_path / "old" / "mlflow.db")
    client = connect(f"sqlite:///{tmp_path}/old/mlflow.db")
    run_id = client.create_run(
        find_or_create_experiment(client, "temp", f"{tmp_path}/old/artifacts")
    ).info.run_id
    (tmp_path / "student.safetensors").write_bytes(b"weights")
    client.log_artifact(run_id, str(tmp_path / "student.safetensors"))
    return run_id


def artifact_paths(database):
    """Paths of runs' and experiments' files in a database, read without MLflow's cache."""
    with sqlite3.connect(database) as connection:
        places = [uri for (uri,) in connection.execute("SELECT artifact_uri FROM runs")]
        return places + [
            uri
            for (uri,) in connection.execute(
                "SELECT artifact_location FROM experiments WHERE name = 'temp'"
            )
        ]


def test_artifact_paths_follow_a_moved_storage(moved_run, tmp_path):
    (tmp_path / "old").rename(tmp_path / "new")
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    connect(uri)
    assert artifact_paths(tmp_path / "new" / "mlflow.db") == [
        f"{tmp_path}/new/artifacts/{moved_run}/artifacts",
        f"{tmp_path}/new/artifacts",
    ]


def test_a_moved_student_is_found_by_its_run(moved_run, tmp_path):
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    shutil.rmtree(tmp_path / "old")
    assert (
        fetch_student(
            f"sqlite:///{tmp_path}/new/mlflow.db", moved_run, tmp_path / "here"
        ).read_bytes()
        == b"weights"
    )


@pytest.mark.parametrize("old_exists", [True, False])
def test_paths_stay_if_the_old_folder_exists_or_the_files_were_not_moved(
    moved_run, tmp_path, old_exists
):
    before = artifact_paths(tmp_path / "old" / "mlflow.db")
    (tmp_path / "new").mkdir()
    if old_exists:
        shutil.copytree(tmp_path / "old", tmp_path / "new", dirs_exist_ok=True)
    else:
        (tmp_path / "old" / "mlflow.db").rename(tmp_path / "new" / "mlflow.db")
        shutil.rmtree(tmp_path / "old")
    connect(f"sqlite:///{tmp_path}/new/mlflow.db")
    assert artifact_paths(tmp_path / "new" / "mlflow.db") == before

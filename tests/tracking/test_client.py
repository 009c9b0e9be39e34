import logging
import os
import socket
import sqlite3
import time

import pytest

from beamclip.config import UserError
from beamclip.tracking import client as server
from beamclip.tracking import connect
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
    assert (
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
    )  # later requests are as patient as MLflow is


@pytest.mark.parametrize("scheme", ["http", "postgresql", "mysql+pymysql"])
def test_a_port_where_nobody_listens_is_found_at_once_and_the_password_is_not_shown(scheme):
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
def test_an_impossible_uri_gets_a_sentence(uri, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        connect(uri)
    assert "\n" not in str(caught.value)


def test_a_folder_that_can_not_be_written_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="can't be written"):
        connect(f"sqlite:///{tmp_path}/file/mlflow.db")


def test_a_file_that_is_no_database_is_told_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database " * 100)
    with pytest.raises(UserError, match="not a database"):
        connect(f"sqlite:///{path}")
    assert path.read_text() == "not a database " * 100


def test_a_database_held_by_another_writer_is_told(tmp_path, uri, monkeypatch):
    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.1)
    holder = sqlite3.connect(tmp_path / "mlflow.db")
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(UserError, match="locked"):
        connect(uri)
    connect(uri, create=False)  # reading goes on beside a writer
    holder.close()


def test_reading_makes_no_database(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        connect(f"sqlite:///{tmp_path}/none/mlflow.db", create=False)
    assert not (tmp_path / "none").exists()


def test_mlflow_keeps_quiet(uri):
    connect(uri)
    assert not logging.getLogger("mlflow.store.db.utils").isEnabledFor(logging.INFO)
    assert not logging.getLogger("alembic.runtime.migration").isEnabledFor(logging.INFO)


def test_a_deleted_experiment_is_restored_and_said_so(uri, caplog):
    client = connect(uri)
    first = find_or_create_experiment(client, "temp", None)
    client.delete_experiment(first)
    assert find_or_create_experiment(client, "temp", None) == first
    assert client.get_experiment(first).lifecycle_stage == "active"
    assert "restored" in caplog.text

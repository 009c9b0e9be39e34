import logging
import os
import shutil
import socket
import sqlite3
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from beamclip.config import UserError, load_experiment
from beamclip.stores.paths import artifact_root, tracking_uri
from beamclip.tracking import client, connect, describe_tracking, fetch_student
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
        ("sqlite://", "names no file"),
        ("sqlite:/x/mlflow.db", "is not a URI of a file"),
        ("sqlite://x/mlflow.db", "has a slash too few"),
        ("sqlite:///~/mlflow.db", "starts with ~; write sqlite:////FOLDER/mlflow.db"),
        ("sqlite:///file:/x?mode=ro&uri=true", "starts with file:"),
        ("SQLite:////x/mlflow.db", "begin it with sqlite:"),
        ("postgres://host/db", "begin it with postgresql:"),
        ("databricks", "is a Databricks workspace"),
        ("databricks://profile", "is a Databricks workspace"),
        ("databricks-uc", "is a Unity Catalog"),
        ("localhost:5000", "has no scheme; write http://localhost:5000$"),
        ("127.0.0.1:5000/", "has no scheme; write http://127.0.0.1:5000/$"),
        ("user:s3cret@host:5000", "^tracking.uri …@host:5000 has no scheme; write http://…@host:5"),
        ("http:/host:5000", "has no host; write http://HOST:PORT"),
        ("http://[x", "can't be used .*; write http://HOST:PORT"),
        ("http://u:pw@host:5000/p/#/experiments/1", "its server, http://…@host:5000/p/$"),
        ("postgresql://host:port/db", "doesn't answer"),
    ],
)
def test_an_impossible_uri_is_a_user_error(uri, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        connect(uri)
    assert "\n" not in str(caught.value)
    # `beamclip doctor` says the same.
    with pytest.raises(UserError) as doctor:
        describe_tracking(uri)
    assert str(doctor.value) == str(caught.value)


def test_a_device_or_pipe_is_not_replaced_by_a_database(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for look in (connect, describe_tracking):
        with pytest.raises(UserError, match="is not a regular file; name a database"):
            look(f"sqlite:///{tmp_path}/pipe")
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("mlruns", "{here}/mlruns"),
        ("./mlruns", "{here}/mlruns"),
        ("file:///x", "/x"),
        ("file:/x", "/x"),
        ("file:x", "{here}/x"),
        ("FILE:///x%20y", "/x y"),
        ("databases", "{here}/databases"),
    ],
)
def test_a_folder_is_refused_with_the_database_to_write_instead(uri, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        connect(uri)
    assert str(caught.value) == (
        f"tracking.uri {uri} is a folder, which MLflow no longer writes to; "
        f"use sqlite:///{path.format(here=tmp_path)}/mlflow.db"
    )
    assert os.listdir(tmp_path) == []


def test_runs_in_a_folder_can_be_copied_by_mlflow(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "meta.yaml").touch()
    with pytest.raises(UserError, match="mlflow migrate-filestore copies the runs"):
        connect(tmp_path.as_uri())


def test_a_path_of_a_file_or_the_uri_of_a_folder_is_answered_with_the_right_uri(uri, tmp_path):
    with pytest.raises(UserError, match=f"is a path; write it as {uri}$"):
        connect(f"{tmp_path}/mlflow.db")
    with pytest.raises(UserError, match=f"is a folder; name a file in it: {uri}$"):
        connect(f"sqlite:///{tmp_path}")


@pytest.mark.parametrize(
    ("scheme", "status", "sentence"),
    [
        ("http", 200, "answers, but not as an MLflow server"),
        ("http", 404, "answers, but not as an MLflow server"),
        ("http", 501, "answers, but not as an MLflow server"),
        ("http", 401, "fix the address or the credentials"),
        ("https", 200, "can't be reached over https"),
    ],
)
def test_a_web_server_that_is_not_mlflow_is_named_as_such(scheme, status, sentence):
    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        do_POST = do_GET

        def log_message(self, *words):
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match=sentence):
            connect(f"{scheme}://127.0.0.1:{server.server_port}", create=False)
        server.shutdown()


@pytest.mark.parametrize("name", ["run #2", "a?b=c", "50%20off", "100%", "a;b", "café"])
def test_a_storage_of_any_name_holds_its_database_and_artifacts(name, empty_database, tmp_path):
    old, new = tmp_path / "old" / name, tmp_path / "new" / name
    old.mkdir(parents=True)
    shutil.copy(empty_database, old / "mlflow.db")
    base = load_experiment("demo", {"storage.path": str(old)})
    mlflow_client = connect(tracking_uri(base))
    experiment_id = find_or_create_experiment(mlflow_client, "temp", artifact_root(base))
    run_id = mlflow_client.create_run(experiment_id).info.run_id
    mlflow_client.log_text(run_id, "weights", "student.safetensors")
    assert (old / "artifacts" / run_id / "artifacts" / "student.safetensors").is_file()
    assert os.listdir(tmp_path) == ["old"] and os.listdir(tmp_path / "old") == [name]

    # It can be moved to and from such a name.
    new.parent.mkdir()
    for here, there in ((old, new), (new, tmp_path / "plain"), (tmp_path / "plain", old)):
        here.rename(there)
        moved = load_experiment("demo", {"storage.path": str(there)})
        student = fetch_student(tracking_uri(moved), run_id, tmp_path / "fetched")
        assert student.read_text() == "weights"
        student.unlink()


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

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from beamclip.config import UserError, load_experiment
from beamclip.stores.paths import (
    artifact_root,
    asset_key,
    check_writable,
    fetch_files,
    is_sqlite,
    local_folder,
    storage_root,
    stores_root,
    tracking_uri,
)


def experiment(**values):
    return load_experiment("demo", {key.replace("__", "."): value for key, value in values.items()})


def test_the_setting_overrides_the_environment_which_overrides_the_home_folder(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage_root(experiment()) == f"{tmp_path}/beamclip"
    monkeypatch.setenv("BEAMCLIP_STORAGE", f"{tmp_path}/environment")
    assert storage_root(experiment()) == f"{tmp_path}/environment"
    assert storage_root(experiment(storage__path=f"{tmp_path}/set")) == f"{tmp_path}/set"
    assert stores_root(experiment()) == tmp_path / "environment" / "stores"
    monkeypatch.setenv("BEAMCLIP_CACHE", f"{tmp_path}/shared")
    assert stores_root(experiment()) == tmp_path / "shared"
    assert stores_root(experiment(storage__cache=f"{tmp_path}/own")) == tmp_path / "own"


def test_a_relative_storage_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage_root(experiment(storage__path="here")) == f"{tmp_path}/here"
    assert storage_root(experiment(storage__path="s3://bucket/here")) == "s3://bucket/here"


def test_the_tracking_database_is_in_the_storage_unless_a_server_is_named(tmp_path, monkeypatch):
    plain = experiment(storage__path=str(tmp_path))
    assert tracking_uri(plain) == f"sqlite:///{tmp_path}/mlflow.db"
    assert artifact_root(plain) == f"{tmp_path}/artifacts"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri(plain) == "http://server:5000"
    assert artifact_root(plain) is None
    assert tracking_uri(experiment(tracking__uri="http://other")) == "http://other"


def test_the_database_of_a_storage_is_named_by_a_uri_that_means_its_path(tmp_path):
    for name in ("run #2", "a b", "a?b", "50%20off", "100%", "a;b", "ä", "a@b:c"):
        plain = experiment(storage__path=f"{tmp_path}/{name}")
        assert make_url(tracking_uri(plain)).database == f"{tmp_path}/{name}/mlflow.db"
        assert is_sqlite(tracking_uri(plain))
    assert tracking_uri(experiment(storage__path="/run #2")) == "sqlite:////run #2/mlflow.db"


def test_artifacts_are_next_to_a_database_that_is_named_with_a_driver(tmp_path):
    named = experiment(storage__path="/x", tracking__uri="sqlite+pysqlite:////y/mlflow.db")
    assert artifact_root(named) == "/x/artifacts"
    # MLflow would take what follows the question mark for a query.
    assert artifact_root(experiment(storage__path="/a?b")) == "file:///a%3Fb/artifacts"


def test_an_empty_variable_names_no_tracking_server(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    with pytest.raises(UserError, match="--tracking-uri"):
        tracking_uri(experiment(storage__path="s3://bucket/runs"))


def test_a_bucket_needs_a_tracking_server_and_stores_stay_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    remote = experiment(storage__path="s3://bucket/runs")
    assert stores_root(remote) == tmp_path / "beamclip" / "stores"
    with pytest.raises(UserError, match="--tracking-uri"):
        tracking_uri(remote)


SHARED = [
    ("objective.teacher_temperature", 0.5), ("anchors.count", 3), ("student.backbone", "resnet18"),
    ("optimizer.lr", 0.5), ("seed", 7), ("scaling.workers", 1), ("balance.remove", 0),
    ("objective.clip_cid.clusters", 7),
]  # fmt: skip
OWN = [
    ("anchors.prompt_set", "plain"),
    ("views.recipe", "weak"),
    ("views.seed", 3),
    ("teacher.model", "other"),
    ("data.split_seed", 9),
]
OWN += [
    ("balance.remove", 0.2),
    ("data.keep", "kept.json"),
    ("objective.name", "clip_cid"),
    ("objective.name", "simclr"),
]


@pytest.mark.parametrize(
    ("key", "value", "same"), [(*pair, True) for pair in SHARED] + [(*pair, False) for pair in OWN]
)
def test_only_settings_that_change_the_stores_are_in_the_asset_key(key, value, same):
    assert (
        asset_key(load_experiment("demo", {key: value})) == asset_key(load_experiment("demo"))
    ) == same


def test_storage_that_cannot_be_written_is_found_before_anything_starts(tmp_path):
    (tmp_path / "file").touch()
    for path in (f"{tmp_path}/file/below", f"file://{tmp_path}/file/below", "nothing://bucket"):
        with pytest.raises(UserError, match=r"can't be written|neither a folder nor a known URI"):
            check_writable(experiment(storage__path=path, storage__cache=str(tmp_path / "cache")))


@pytest.mark.parametrize("uri", ["s3://KEY:SECRET@bucket/x?region=us-east-1", "file:///x?a=b"])
def test_a_storage_uri_with_a_query_is_refused(uri):
    """With a query, pyarrow would ignore the path of a sweep, which is appended after it.

    `s3://bucket/x?region=us-east-1/sweeps/one` would mean `s3://bucket/x` for every sweep.
    """
    with pytest.raises(UserError, match="ends in a query.*AWS_ENDPOINT_URL, AWS_REGION") as caught:
        storage_root(experiment(storage__path=uri))
    assert "SECRET" not in str(caught.value)


@pytest.mark.slow
def test_another_s3_server_is_set_by_environment_variables():
    """pyarrow reads AWS_ENDPOINT_URL and AWS_REGION, which the error above names."""
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        own = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_REGION": "eu-own-7",
        }
        code = (
            "from beamclip.stores.paths import filesystem_of; "
            "system, path = filesystem_of('s3://bucket/x'); system.get_file_info(path)"
        )
        keys = {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **keys, **own},
            check=True,
            timeout=60,
            capture_output=True,
        )
        server.shutdown()
    path, signed = asked[-1]
    assert path == "/bucket/x" and "/eu-own-7/s3/" in signed


@pytest.mark.parametrize("path", ["~nosuchuser/x", "a\0b", "loop/x"])
def test_an_invalid_path_is_a_user_error(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(
        UserError, match=r"^storage.path .* is not a valid path here \(.*\); write another path$"
    ):
        storage_root(experiment(storage__path=path))
    with pytest.raises(UserError, match=r"^storage.cache .* is not a valid path here"):
        stores_root(experiment(storage__cache=path))
    with pytest.raises(UserError, match=r"can't be written \(File name too long\)"):
        check_writable(experiment(storage__path="x" * 300))


def test_no_message_about_a_storage_contains_its_password(tmp_path):
    (tmp_path / "file").touch()
    for path in (f"file://me:secret@/{tmp_path}/file/below", "nothing://me:secret@bucket"):
        with pytest.raises(UserError) as caught:
            check_writable(experiment(storage__path=path, storage__cache=str(tmp_path / "cache")))
        assert "secret" not in str(caught.value)
    with pytest.raises(UserError, match="--tracking-uri") as caught:
        tracking_uri(experiment(storage__path="s3://me:secret@bucket"))
    assert "secret" not in str(caught.value)


def test_a_local_folder_is_known_by_path_or_file_uri(tmp_path):
    assert local_folder(str(tmp_path)) == local_folder(f"file://{tmp_path}") == Path(tmp_path)
    assert local_folder("mock://bucket/x") is None


@pytest.mark.parametrize("root", ["", "file://"])
def test_files_on_this_machine_are_read_in_place(tmp_path, root):
    (tmp_path / "a").write_text("x")
    (tmp_path / "c").mkdir()
    assert fetch_files(f"{root}{tmp_path}", str(tmp_path), ("a", "b", "c"), tmp_path / "here") == [
        tmp_path / "a"
    ]
    assert fetch_files(f"{root}{tmp_path}", f"{tmp_path}/nowhere", ("a",), tmp_path / "here") == []


def test_remote_files_are_copied_by_ray_s_path_without_a_scheme(tmp_path, bucket):
    (bucket / "runs" / "checkpoint").mkdir(parents=True)
    (bucket / "runs" / "checkpoint" / "a").write_text("x")
    (found,) = fetch_files("s3://bucket/runs", "bucket/runs/checkpoint", ("a", "b"), tmp_path)
    assert found == tmp_path / "a" and found.read_text() == "x"


def test_the_number_of_clusters_is_in_the_key_only_if_clusters_are_needed():
    cells = [
        load_experiment(
            "demo", {"objective.name": "clip_cid", "objective.clip_cid.clusters": count}
        )
        for count in (5, 6)
    ]
    assert asset_key(cells[0]) != asset_key(cells[1])

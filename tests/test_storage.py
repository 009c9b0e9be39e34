from pathlib import Path

import pytest

from beamclip.config import UserError, load_experiment
from beamclip.storage import artifact_root, asset_key, check_writable, fetched_files, local_folder, storage_root, stores_root, tracking_uri


def experiment(**values):
    return load_experiment("demo", {key.replace("__", "."): value for key, value in values.items()})


def test_the_setting_wins_over_the_environment_and_that_over_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage_root(experiment()) == f"{tmp_path}/beamclip"
    monkeypatch.setenv("BEAMCLIP_STORAGE", f"{tmp_path}/environment")
    assert storage_root(experiment()) == f"{tmp_path}/environment"
    assert storage_root(experiment(storage__path=f"{tmp_path}/set")) == f"{tmp_path}/set"
    assert stores_root(experiment()) == tmp_path / "environment" / "stores"
    monkeypatch.setenv("BEAMCLIP_CACHE", f"{tmp_path}/shared")
    assert stores_root(experiment()) == tmp_path / "shared"
    assert stores_root(experiment(storage__cache=f"{tmp_path}/own")) == tmp_path / "own"


def test_a_relative_storage_is_made_absolute_because_a_jobs_folder_is_thrown_away(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage_root(experiment(storage__path="here")) == f"{tmp_path}/here"
    assert storage_root(experiment(storage__path="s3://bucket/here")) == "s3://bucket/here"


def test_results_lie_beside_the_runs_unless_a_server_is_named(tmp_path, monkeypatch):
    plain = experiment(storage__path=str(tmp_path))
    assert tracking_uri(plain) == f"sqlite:///{tmp_path}/mlflow.db"
    assert artifact_root(plain) == f"{tmp_path}/artifacts"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri(plain) == "http://server:5000"
    assert artifact_root(plain) is None
    assert tracking_uri(experiment(tracking__uri="http://other")) == "http://other"


def test_a_bucket_holds_no_sqlite_and_keeps_stores_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    remote = experiment(storage__path="s3://bucket/runs")
    assert stores_root(remote) == tmp_path / "beamclip" / "stores"
    with pytest.raises(UserError, match="--tracking-uri"):
        tracking_uri(remote)


SHARED = [
    ("objective.teacher_temperature", 0.5), ("anchors.count", 3), ("student.backbone", "resnet18"), ("optimiser.lr", 0.5), ("seed", 7),
    ("scaling.workers", 1), ("balance.remove", 0), ("objective.clip_cid.clusters", 7),
]  # fmt: skip
OWN = [("anchors.prompt_set", "plain"), ("views.recipe", "weak"), ("views.seed", 3), ("teacher.model", "other"), ("data.split_seed", 9)]
OWN += [("balance.remove", 0.2), ("data.keep", "kept.json"), ("objective.name", "clip_cid"), ("objective.name", "simclr")]


@pytest.mark.parametrize(("key", "value", "same"), [(*pair, True) for pair in SHARED] + [(*pair, False) for pair in OWN])
def test_only_what_decides_the_stores_is_in_their_key(key, value, same):
    assert (asset_key(load_experiment("demo", {key: value})) == asset_key(load_experiment("demo"))) == same


def test_what_cannot_be_written_is_found_before_anything_starts(tmp_path):
    (tmp_path / "file").touch()
    for path in (f"{tmp_path}/file/below", f"file://{tmp_path}/file/below", "nothing://bucket"):
        with pytest.raises(UserError, match=r"can't be written|no folder or known URI"):
            check_writable(experiment(storage__path=path, storage__cache=str(tmp_path / "cache")))


def test_what_lies_on_this_machine_is_found_by_its_path(tmp_path):
    assert local_folder(str(tmp_path)) == local_folder(f"file://{tmp_path}") == Path(tmp_path)
    assert local_folder("mock://bucket/x") is None


@pytest.mark.parametrize("root", ["", "file://"])
def test_files_on_this_machine_are_read_in_place(tmp_path, root):
    (tmp_path / "a").write_text("x")
    (tmp_path / "c").mkdir()
    assert fetched_files(f"{root}{tmp_path}", str(tmp_path), ("a", "b", "c"), tmp_path / "here") == [tmp_path / "a"]
    assert fetched_files(f"{root}{tmp_path}", f"{tmp_path}/nowhere", ("a",), tmp_path / "here") == []


def test_files_elsewhere_are_copied_by_the_path_that_ray_names_without_a_scheme(tmp_path, bucket):
    (bucket / "runs" / "checkpoint").mkdir(parents=True)
    (bucket / "runs" / "checkpoint" / "a").write_text("x")
    (found,) = fetched_files("s3://bucket/runs", "bucket/runs/checkpoint", ("a", "b"), tmp_path)
    assert found == tmp_path / "a" and found.read_text() == "x"


def test_the_number_of_clusters_counts_where_clusters_are_needed():
    cells = [load_experiment("demo", {"objective.name": "clip_cid", "objective.clip_cid.clusters": count}) for count in (5, 6)]
    assert asset_key(cells[0]) != asset_key(cells[1])

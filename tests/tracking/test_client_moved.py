import shutil
import sqlite3

import pytest

from beamclip.tracking import connect, fetch_student
from beamclip.tracking.client import find_or_create_experiment


@pytest.fixture
def begun(empty_database, tmp_path):
    """A folder with a database and a run that kept a student; returns the run's id."""
    (tmp_path / "old").mkdir()
    shutil.copy(empty_database, tmp_path / "old" / "mlflow.db")
    client = connect(f"sqlite:///{tmp_path}/old/mlflow.db")
    run_id = client.create_run(
        find_or_create_experiment(client, "temp", f"{tmp_path}/old/artifacts")
    ).info.run_id
    (tmp_path / "student.safetensors").write_bytes(b"weights")
    client.log_artifact(run_id, str(tmp_path / "student.safetensors"))
    return run_id


def kept(database):
    """Where runs and experiments say that their files are; read past MLflow, which remembers."""
    with sqlite3.connect(database) as connection:
        places = [uri for (uri,) in connection.execute("SELECT artifact_uri FROM runs")]
        return places + [
            uri
            for (uri,) in connection.execute(
                "SELECT artifact_location FROM experiments WHERE name = 'temp'"
            )
        ]


def test_runs_keep_and_find_their_files_where_storage_was_moved_to(begun, tmp_path):
    (tmp_path / "old").rename(tmp_path / "new")
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    connect(uri)
    assert kept(tmp_path / "new" / "mlflow.db") == [
        f"{tmp_path}/new/artifacts/{begun}/artifacts",
        f"{tmp_path}/new/artifacts",
    ]


def test_a_moved_student_is_found_by_its_run(begun, tmp_path):
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    shutil.rmtree(tmp_path / "old")
    assert (
        fetch_student(f"sqlite:///{tmp_path}/new/mlflow.db", begun, tmp_path / "here").read_bytes()
        == b"weights"
    )


@pytest.mark.parametrize("also_there", [True, False])
def test_nothing_changes_while_the_old_folder_is_there_or_where_the_files_did_not_come_along(
    begun, tmp_path, also_there
):
    before = kept(tmp_path / "old" / "mlflow.db")
    (tmp_path / "new").mkdir()
    if also_there:
        shutil.copytree(tmp_path / "old", tmp_path / "new", dirs_exist_ok=True)
    else:
        (tmp_path / "old" / "mlflow.db").rename(tmp_path / "new" / "mlflow.db")
        shutil.rmtree(tmp_path / "old")
    connect(f"sqlite:///{tmp_path}/new/mlflow.db")
    assert kept(tmp_path / "new" / "mlflow.db") == before

from beamclip.tracking import connect, fetch_student, follow_move
from beamclip.tracking.server import find_or_create_experiment


def made(folder):
    """A database with a run that kept a student, beside its artifacts."""
    folder.mkdir()
    client = connect(f"sqlite:///{folder}/mlflow.db")
    run = client.create_run(find_or_create_experiment(client, "temp", f"{folder}/artifacts/temp"))
    (folder / "student.safetensors").write_bytes(b"weights")
    client.log_artifact(run.info.run_id, str(folder / "student.safetensors"))
    return run.info.run_id


def test_runs_keep_and_find_their_files_where_storage_was_moved_to(tmp_path):
    run_id = made(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    follow_move(uri, f"{tmp_path}/old", f"{tmp_path}/new")
    assert fetch_student(uri, run_id, tmp_path / "here").read_bytes() == b"weights"
    client = connect(uri)
    experiment = client.get_experiment_by_name("temp")
    assert experiment.artifact_location == f"{tmp_path}/new/artifacts/temp"
    client.log_text(client.create_run(experiment.experiment_id).info.run_id, "more", "more.txt")
    assert not (tmp_path / "old").exists()


def test_nothing_changes_while_the_old_folder_is_there_or_the_database_lies_elsewhere(tmp_path):
    run_id = made(tmp_path / "old")
    uri = f"sqlite:///{tmp_path}/old/mlflow.db"
    before = connect(uri).get_run(run_id).info.artifact_uri
    follow_move(uri, f"{tmp_path}/old", f"{tmp_path}/new")
    follow_move(uri, f"{tmp_path}/gone", f"{tmp_path}/new")
    follow_move("http://server:5000", f"{tmp_path}/gone", f"{tmp_path}/new")
    assert connect(uri).get_run(run_id).info.artifact_uri == before

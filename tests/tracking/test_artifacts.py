from pathlib import Path

import pytest
from mlflow import MlflowClient

from beamclip.config import UserError
from beamclip.tracking import Artifacts, fetch_student


def test_files_come_back_and_missing_ones_are_none(uri, finished, tmp_path):
    files = Artifacts(uri)
    (tmp_path / "page" / "figures").mkdir(parents=True)
    (tmp_path / "page" / "report.md").write_text("hello")
    (tmp_path / "page" / "figures" / "one.png").write_bytes(b"\x89PNG")
    assert files.write(finished.run_id, tmp_path / "page", "report") is None
    assert files.read(finished.run_id, "report/report.md") == b"hello"
    assert files.read(finished.run_id, "report/figures/one.png") == b"\x89PNG"
    assert files.read(finished.run_id, "nothing.json") is None
    assert files.read("0" * 32, "config.yaml") is None


def test_an_upload_error_is_one_line(uri, finished, tmp_path):
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "a").touch()
    error = Artifacts(uri).write("0" * 32, tmp_path / "page", "report")
    assert error and "\n" not in error


@pytest.fixture
def run_id(opened, tmp_path):
    """Run of a trial with a student."""
    (tmp_path / "student.safetensors").write_bytes(b"learnt")
    with opened() as tracker:
        trial_run_id = tracker.start_trial("t0", {})
        tracker.log_trial_artifact("t0", tmp_path / "student.safetensors")
    return trial_run_id


def test_an_interrupted_download_leaves_no_partial_student(uri, run_id, tmp_path, monkeypatch):
    def interrupted_download(self, run, name, folder):
        Path(folder, name).write_bytes(b"lea")
        raise KeyboardInterrupt

    folder = tmp_path / "starts"
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "download_artifacts", interrupted_download)
        with pytest.raises(KeyboardInterrupt):
            fetch_student(uri, run_id, folder)
    assert list(folder.iterdir()) == []
    assert fetch_student(uri, run_id, folder).read_bytes() == b"learnt"
    assert [file.name for file in folder.iterdir()] == ["student.safetensors"]


def test_a_folder_that_can_not_be_written_is_an_error_and_not_a_missing_student(
    uri, run_id, tmp_path
):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="below can't be written"):
        fetch_student(uri, run_id, tmp_path / "file" / "below")

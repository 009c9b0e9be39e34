from pathlib import Path

import pytest
from mlflow import MlflowClient

from beamclip.config import UserError
from beamclip.tracking import fetch_student


@pytest.fixture
def run_id(opened, tmp_path):
    """Of a trial that kept a student."""
    (tmp_path / "student.safetensors").write_bytes(b"learnt")
    with opened() as tracker:
        found = tracker.trial("t0", {})
        tracker.trial_artifact("t0", tmp_path / "student.safetensors")
    return found


def test_half_a_student_is_not_left_behind_by_a_download_that_was_interrupted(
    uri, run_id, tmp_path, monkeypatch
):
    def half(self, run, name, folder):
        Path(folder, name).write_bytes(b"lea")
        raise KeyboardInterrupt

    folder = tmp_path / "starts"
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "download_artifacts", half)
        with pytest.raises(KeyboardInterrupt):
            fetch_student(uri, run_id, folder)
    assert list(folder.iterdir()) == []
    assert fetch_student(uri, run_id, folder).read_bytes() == b"learnt"
    assert [file.name for file in folder.iterdir()] == ["student.safetensors"]


def test_a_folder_that_can_not_be_written_is_a_sentence_and_not_a_missing_student(
    uri, run_id, tmp_path
):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="below can't be written"):
        fetch_student(uri, run_id, tmp_path / "file" / "below")

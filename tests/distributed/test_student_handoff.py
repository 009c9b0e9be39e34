import contextlib
import threading

import pytest
from ray.exceptions import ActorDiedError

from beamclip.config import UserError, load_experiment, with_values
from beamclip.distributed.student_handoff import StudentHandoff, _file_stem, clear_failure_marks

BASE = load_experiment("demo")
OTHER = with_values(BASE, {"seed": 1})


class Checkpoint:
    """As Ray's: a folder that is available for a while."""

    def __init__(self, folder, probed=True):
        self.folder = folder
        folder.mkdir()
        (folder / "student.safetensors").write_bytes(b"student")
        if probed:
            (folder / "probe.safetensors").write_bytes(b"probe")

    def as_directory(self):
        return contextlib.nullcontext(str(self.folder))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_student_is_waited_for_and_found(tmp_path, scheme):
    folder = f"{scheme}{tmp_path}/sweep"
    files = []

    def wait():
        with StudentHandoff(folder, BASE) as handoff:
            files.append(handoff.wait_for(OTHER))

    waiting = threading.Thread(target=wait)
    waiting.start()
    with StudentHandoff(folder, OTHER) as handoff:
        handoff.publish(Checkpoint(tmp_path / "checkpoint"))
    waiting.join(20)
    (file,) = files
    assert file.startswith(folder)
    with open(file.removeprefix("file://"), "rb") as student:
        assert student.read() == b"student"


@pytest.mark.parametrize("how", ["raised", "unfinished checkpoint", "no checkpoint"])
def test_no_trial_waits_for_one_that_failed(tmp_path, how):
    try:
        with StudentHandoff(str(tmp_path), OTHER) as handoff:
            if how == "raised":
                raise ZeroDivisionError
            handoff.publish(
                Checkpoint(tmp_path / "checkpoint", probed=False)
                if how == "unfinished checkpoint"
                else None
            )
    except ZeroDivisionError:
        pass
    with (
        pytest.raises(UserError, match="has failed"),
        StudentHandoff(str(tmp_path), BASE) as handoff,
    ):
        handoff.wait_for(OTHER)


def test_a_trial_whose_process_was_lost_is_waited_for_since_it_is_retried(tmp_path):
    with pytest.raises(ActorDiedError), StudentHandoff(str(tmp_path), OTHER):
        raise ActorDiedError
    with StudentHandoff(str(tmp_path), OTHER) as handoff:
        handoff.publish(Checkpoint(tmp_path / "checkpoint"))
    assert StudentHandoff(str(tmp_path), BASE).wait_for(OTHER).endswith(".safetensors")


def test_a_published_student_is_not_marked_failed(tmp_path):
    with StudentHandoff(str(tmp_path), OTHER) as handoff:
        handoff.publish(Checkpoint(tmp_path / "checkpoint"))
    StudentHandoff(str(tmp_path), OTHER).mark_failed()
    assert not list(tmp_path.glob("students/*.failed"))


def test_a_second_attempt_removes_the_mark_of_the_first(tmp_path):
    with StudentHandoff(str(tmp_path), OTHER) as handoff:
        handoff.publish(None)
    with StudentHandoff(str(tmp_path), OTHER) as handoff:
        handoff.publish(Checkpoint(tmp_path / "checkpoint"))
        assert StudentHandoff(str(tmp_path), BASE).wait_for(OTHER).endswith(".safetensors")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_marks_of_an_earlier_session_are_removed_and_students_are_kept(tmp_path, scheme):
    clear_failure_marks(f"{scheme}{tmp_path}/none-yet")
    with StudentHandoff(str(tmp_path), BASE) as handoff:
        handoff.publish(Checkpoint(tmp_path / "checkpoint"))
    StudentHandoff(str(tmp_path), OTHER).mark_failed()
    clear_failure_marks(f"{scheme}{tmp_path}")
    assert [file.suffix for file in (tmp_path / "students").iterdir()] == [".safetensors"]


def test_the_storage_is_not_part_of_a_student_s_name(tmp_path):
    with StudentHandoff(str(tmp_path), OTHER) as handoff:
        handoff.publish(Checkpoint(tmp_path / "checkpoint"))
    moved = with_values(OTHER, {"storage.path": "/elsewhere", "scaling.workers": 2})
    assert StudentHandoff(str(tmp_path), BASE).wait_for(moved)


def test_students_of_sweeps_of_an_earlier_version_are_found():
    # The name that version 0.1.0 gave to the student of this experiment.
    assert _file_stem(load_experiment("cifar10", {"storage.path": "/x"})) == "c0bec4e2881ba4a5"

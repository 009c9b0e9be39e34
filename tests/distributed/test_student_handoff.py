import threading

import pytest
from ray.exceptions import ActorDiedError

from beamclip.config import UserError, load_experiment, with_values
from beamclip.distributed.student_handoff import StudentHandoff, forget_failures

BASE = load_experiment("demo")
OTHER = with_values(BASE, {"seed": 1})


class Checkpoint:
    """As Ray's: a folder that is here for a while."""

    def __init__(self, folder, probed=True):
        self.folder = folder
        folder.mkdir()
        (folder / "student.safetensors").write_bytes(b"student")
        if probed:
            (folder / "probe.safetensors").write_bytes(b"probe")

    def as_directory(self):
        return _Here(self.folder)


class _Here:
    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        return str(self.folder)

    def __exit__(self, *error):
        return None


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_student_is_waited_for_and_found(tmp_path, scheme):
    folder = f"{scheme}{tmp_path}/sweep"
    found = []

    def wait():
        with StudentHandoff(folder, BASE) as handover:
            found.append(handover.wait_for(OTHER))

    waiting = threading.Thread(target=wait)
    waiting.start()
    with StudentHandoff(folder, OTHER) as handover:
        handover.leave(Checkpoint(tmp_path / "checkpoint"))
    waiting.join(20)
    (file,) = found
    assert file.startswith(folder)
    with open(file.removeprefix("file://"), "rb") as student:
        assert student.read() == b"student"


@pytest.mark.parametrize("how", ["it raised", "it was never probed", "it left nothing"])
def test_nobody_waits_for_a_trial_that_failed(tmp_path, how):
    try:
        with StudentHandoff(str(tmp_path), OTHER) as handover:
            if how == "it raised":
                raise ZeroDivisionError
            handover.leave(
                Checkpoint(tmp_path / "checkpoint", probed=False)
                if how == "it was never probed"
                else None
            )
    except ZeroDivisionError:
        pass
    with (
        pytest.raises(UserError, match="has failed"),
        StudentHandoff(str(tmp_path), BASE) as handover,
    ):
        handover.wait_for(OTHER)


def test_a_trial_whose_process_was_lost_is_waited_for_since_it_is_tried_again(tmp_path):
    with pytest.raises(ActorDiedError), StudentHandoff(str(tmp_path), OTHER):
        raise ActorDiedError
    with StudentHandoff(str(tmp_path), OTHER) as handover:
        handover.leave(Checkpoint(tmp_path / "checkpoint"))
    assert StudentHandoff(str(tmp_path), BASE).wait_for(OTHER).endswith(".safetensors")


def test_a_student_that_is_there_is_not_given_up(tmp_path):
    with StudentHandoff(str(tmp_path), OTHER) as handover:
        handover.leave(Checkpoint(tmp_path / "checkpoint"))
    StudentHandoff(str(tmp_path), OTHER).give_up()
    assert not list(tmp_path.glob("students/*.failed"))


def test_a_second_attempt_forgets_that_the_first_one_failed(tmp_path):
    with StudentHandoff(str(tmp_path), OTHER) as handover:
        handover.leave(None)
    with StudentHandoff(str(tmp_path), OTHER) as handover:
        handover.leave(Checkpoint(tmp_path / "checkpoint"))
        assert StudentHandoff(str(tmp_path), BASE).wait_for(OTHER).endswith(".safetensors")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_failures_of_an_earlier_session_are_forgotten_and_students_are_not(tmp_path, scheme):
    forget_failures(f"{scheme}{tmp_path}/none-yet")
    with StudentHandoff(str(tmp_path), BASE) as handover:
        handover.leave(Checkpoint(tmp_path / "checkpoint"))
    StudentHandoff(str(tmp_path), OTHER).give_up()
    forget_failures(f"{scheme}{tmp_path}")
    assert [file.suffix for file in (tmp_path / "students").iterdir()] == [".safetensors"]


def test_where_runs_are_kept_is_no_part_of_a_student_s_name(tmp_path):
    with StudentHandoff(str(tmp_path), OTHER) as handover:
        handover.leave(Checkpoint(tmp_path / "checkpoint"))
    moved = with_values(OTHER, {"storage.path": "/elsewhere", "scaling.workers": 2})
    assert StudentHandoff(str(tmp_path), BASE).wait_for(moved)

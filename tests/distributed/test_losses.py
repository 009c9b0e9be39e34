"""Trials whose own process is lost, in a real Ray Tune; what they train is only pretended."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray
SCRIPT = Path(__file__).parents[1] / "stub_sweep.py"
UNTAUGHT = "the trial that student.init names has failed, so there is no student to start from; see that trial's error"


@pytest.fixture(scope="module")
def environment():
    folder = tempfile.mkdtemp(prefix="bc", dir="/tmp")
    yield os.environ | {"RAY_ADDRESS": "local", "RAY_TMPDIR": folder}
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sweep(environment, tmp_path):
    """`sweep(what, …)`: what the driver heard and how often each trial began; `first` and `second`, which waits for it, of two seeds."""

    def run(*arguments):
        command = [sys.executable, str(SCRIPT), str(tmp_path), *map(str, arguments)]
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.splitlines()[-1])

    return run


def ends(said):
    return sorted(
        (status, error)
        for word, status, error in (note for note in said["heard"] if note[0] == "ended")
    )


def begun(said, name):
    return sorted(seed for _, word, which, seed in said["done"] if (word, which) == ("begun", name))


def test_a_trial_whose_process_was_lost_is_tried_again_and_the_one_that_waits_for_it_waits_on(
    sweep,
):
    said = sweep("killed once", 4)
    assert said["ended"] and [status for status, _ in ends(said)] == ["FINISHED"] * 4
    assert begun(said, "first") == [0, 0, 1, 1] and begun(said, "second") == [0, 1]


def test_where_it_is_lost_again_and_again_nobody_waits_for_ever(sweep):
    said = sweep("killed", 4)
    assert said["ended"] and [status for status, _ in ends(said)] == ["FAILED"] * 4
    assert begun(said, "first") == [0] * 3 + [1] * 3 and begun(said, "second") == []
    assert sum(str(error).endswith(UNTAUGHT) for _, error in ends(said)) == 2


def test_an_error_is_final_until_the_sweep_is_gone_on_with(sweep):
    said = sweep("raises", 4)
    assert begun(said, "first") == [0, 1] and begun(said, "second") == []
    assert (
        sum(error == "RuntimeError: boom" for _, error in ends(said)) == 2 and len(ends(said)) == 4
    )
    said = sweep("killed once", 4, "--resume")
    assert said["ended"] and [status for status, _ in ends(said)] == ["FINISHED"] * 4
    assert begun(said, "first") == [0, 0, 1, 1]  # what was lost in this session is tried again, too


def test_no_more_of_the_trials_that_start_again_train_at_once_than_they_may(sweep):
    sweep("raises", 4)
    said = sweep("well", 1, "--resume")
    assert said["ended"] and [status for status, _ in ends(said)] == ["FINISHED"] * 4
    assert [word for _, word, _, _ in sorted(said["done"])] == ["begun", "done"] * 4


def test_trials_that_wait_for_their_turn_take_nothing_from_the_one_that_trains(sweep):
    sweep("raises", 4)
    said = sweep("fills the machine", 1, "--resume")
    assert said["ended"] and [status for status, _ in ends(said)] == ["FINISHED"] * 4

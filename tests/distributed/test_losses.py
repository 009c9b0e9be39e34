"""Trials whose own process is lost, in a real Ray Tune; their training is only pretended."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray
SCRIPT = Path(__file__).parents[1] / "helpers" / "stub_sweep.py"
NO_STUDENT = (
    "the trial that student.init names has failed, so there is no student to start from; "
    "see that trial's error"
)


@pytest.fixture(scope="module")
def environment():
    folder = tempfile.mkdtemp(prefix="bc", dir="/tmp")
    yield os.environ | {"RAY_ADDRESS": "local", "RAY_TMPDIR": folder}
    shutil.rmtree(folder, ignore_errors=True)


def run_in(storage, environment, *arguments):
    """Return what `stub_sweep.py` printed.

    There are trials of `first`, and of `second`, which waits for it, with two seeds each.
    """
    command = [sys.executable, str(SCRIPT), str(storage), *map(str, arguments)]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture
def run_stub_sweep(environment, tmp_path):
    """`run_stub_sweep(behavior, concurrent)`: its outcome."""
    return lambda *arguments: run_in(tmp_path, environment, *arguments)


@pytest.fixture(scope="module")
def failed_sweep(environment, tmp_path_factory):
    """The storage and the outcome of a sweep whose trials all failed."""
    storage = tmp_path_factory.mktemp("failed")
    return storage, run_in(storage, environment, "raises", 4)


@pytest.fixture
def resume(environment, failed_sweep, tmp_path):
    """`resume(behavior, concurrent)`: the outcome of resuming a copy of the failed sweep."""
    storage = tmp_path / "copy"
    shutil.copytree(failed_sweep[0], storage)
    return lambda *arguments: run_in(storage, environment, *arguments, "--resume")


def ends(outcome):
    """Status and error of all trials that ended."""
    events = [event for event in outcome["events"] if event[0] == "ended"]
    return sorted((status, error) for _, status, error in events)


def statuses(outcome):
    return [status for status, _ in ends(outcome)]


def begun(outcome, variant):
    """Seeds of a variant's trials, as often as each began."""
    return sorted(
        seed for _, event, name, seed in outcome["trials"] if event == "begun" and name == variant
    )


def test_a_lost_trial_is_retried_and_the_one_that_waits_for_it_keeps_waiting(run_stub_sweep):
    outcome = run_stub_sweep("killed once", 4)
    assert outcome["ended"] and statuses(outcome) == ["FINISHED"] * 4
    assert begun(outcome, "first") == [0, 0, 1, 1] and begun(outcome, "second") == [0, 1]


def test_no_trial_waits_forever_for_one_that_is_lost_again_and_again(run_stub_sweep):
    outcome = run_stub_sweep("killed", 4)
    assert outcome["ended"] and statuses(outcome) == ["FAILED"] * 4
    assert begun(outcome, "first") == [0] * 3 + [1] * 3 and begun(outcome, "second") == []
    assert sum(str(error).endswith(NO_STUDENT) for _, error in ends(outcome)) == 2


def test_an_error_is_final_until_the_sweep_is_resumed(failed_sweep, resume):
    outcome = failed_sweep[1]
    assert begun(outcome, "first") == [0, 1] and begun(outcome, "second") == []
    assert sum(error == "RuntimeError: boom" for _, error in ends(outcome)) == 2
    assert len(ends(outcome)) == 4
    outcome = resume("killed once", 4)
    assert outcome["ended"] and statuses(outcome) == ["FINISHED"] * 4
    # A process that is lost in this session is retried, too.
    assert begun(outcome, "first") == [0, 0, 1, 1]


def test_the_limit_of_concurrent_trials_holds_for_restored_trials(resume):
    outcome = resume("well", 1)
    assert outcome["ended"] and statuses(outcome) == ["FINISHED"] * 4
    assert [event for _, event, _, _ in sorted(outcome["trials"])] == ["begun", "done"] * 4


def test_trials_that_wait_for_a_slot_take_no_cpus_from_the_one_that_trains(resume):
    outcome = resume("fills the machine", 1)
    assert outcome["ended"] and statuses(outcome) == ["FINISHED"] * 4

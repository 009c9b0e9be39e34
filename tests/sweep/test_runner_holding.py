import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from beamclip.config import Sweep, UserError, load_experiment
from beamclip.stores.sweep_record import SweepRecord
from beamclip.sweep.runner import sweep_lock

HOLDER = """
import sys, time
from beamclip.config import Sweep, load_experiment
from beamclip.holding import held
from beamclip.records import SweepRecord

with held(SweepRecord(Sweep(name="temp"), load_experiment("demo", {"storage.path": sys.argv[1]}), "20260101-000000-0001")):
    print("held", flush=True)
    time.sleep(600)
"""


def record(storage, sweep_id="20260101-000000-0001"):
    return SweepRecord(
        Sweep(name="temp"), load_experiment("demo", {"storage.path": str(storage)}), sweep_id
    )


def test_a_second_driver_is_kept_away_until_the_first_has_ended_however_it_ends(tmp_path):
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "held\n"
    with pytest.raises(
        UserError,
        match=r"sweep temp, 20260101-000000-0001, is being run by another process; wait .* before --resume",
    ):
        sweep_lock(record(tmp_path)).__enter__()
    with sweep_lock(record(tmp_path, "20260102-000000-0001")):  # another of the same name may run
        pass
    first.kill()
    first.wait()
    with sweep_lock(record(tmp_path)):
        pass


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt])
def test_what_went_wrong_goes_on_and_the_sweep_is_free_again(tmp_path, error):
    with pytest.raises(error), sweep_lock(record(tmp_path)):
        raise error
    with sweep_lock(record(tmp_path)), pytest.raises(UserError, match="another process"):
        sweep_lock(record(tmp_path)).__enter__()


def test_a_sweep_that_never_began_leaves_nothing_and_one_that_did_its_lock(tmp_path):
    with sweep_lock(record(tmp_path)):
        assert (tmp_path / "sweeps" / "temp").exists()
    assert list(tmp_path.iterdir()) == []
    with sweep_lock(record(tmp_path)):
        record(tmp_path).save()
        with sweep_lock(record(tmp_path, "20260102-000000-0001")):
            pass
    assert sorted(file.name for file in (tmp_path / "sweeps" / "temp").iterdir()) == [
        ".20260101-000000-0001.lock",
        "20260101-000000-0001",
    ]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_files_cannot_be_locked_a_sweep_runs_all_the_same(tmp_path, monkeypatch, code):
    def unknown(file, how):
        raise OSError(code, "no locks here")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with (
        sweep_lock(record(tmp_path)),
        sweep_lock(record(tmp_path)),
    ):  # and nothing keeps a second one away, as its docstring says
        assert (tmp_path / "sweeps" / "temp" / ".20260101-000000-0001.lock").exists()


def test_storage_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "sweeps").touch()
    with pytest.raises(
        UserError,
        match=r"storage .*/sweeps/temp can't be written \(.*\); choose another with --storage",
    ):
        sweep_lock(record(tmp_path)).__enter__()


def test_nothing_is_locked_behind_a_uri(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with sweep_lock(record("mock://bucket/runs")):
        assert list(Path().iterdir()) == []

import sys

import pytest

from beamclip import sweeping
from beamclip.config import Sweep, choice, load_experiment
from beamclip.storage import SweepRecord, latest_sweep
from beamclip.sweeping import resume_line, run_sweep
from beamclip.tracking import compare

SWEEP = Sweep(name="my-sweep", space={"seed": choice(1, 2)})


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["/bin/beamclip", "sweep", "--space", "seed=[1]"], "beamclip sweep --name my-sweep --storage '/a b' --resume"),
        (["/bin/beamclip", "train", "--name", "my-sweep"], "beamclip train --name my-sweep --storage '/a b' --resume"),
        (["sweeps/mine.py", "--preset", "cifar10"], "python sweeps/mine.py --storage '/a b' --resume"),
    ],
)
def test_the_line_to_go_on_with_finds_the_same_sweep(monkeypatch, arguments, line):
    monkeypatch.setattr(sys, "argv", arguments)
    assert resume_line(SweepRecord(SWEEP, load_experiment("demo", {"storage.path": "/a b"}), "id")) == line
    assert resume_line(SweepRecord(SWEEP, load_experiment("demo"), "id")) == line.replace(" --storage '/a b'", "")


def test_an_interrupted_preparation_is_gone_on_with_in_the_same_sweep(monkeypatch, tmp_path, capsys):
    def interrupt(record, bars, repair):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeping, "_prepared", interrupt)
    base = load_experiment("demo", {"storage.path": str(tmp_path)})
    with pytest.raises(KeyboardInterrupt):
        run_sweep(SWEEP, base)
    assert "go on with  " in capsys.readouterr().err
    first = latest_sweep(SWEEP.name, base)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert (compare(uri, SWEEP.name).sweep_id, compare(uri, SWEEP.name).status) == (first.sweep_id, "KILLED")
    with pytest.raises(KeyboardInterrupt):
        run_sweep(SWEEP, base, resume=True)
    assert latest_sweep(SWEEP.name, base) == first
    assert compare(uri, SWEEP.name).sweep_id == first.sweep_id

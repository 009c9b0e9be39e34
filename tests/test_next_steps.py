import sys

import pytest

from beamclip.config import Sweep, choice, load_experiment
from beamclip.next_steps import next_lines, resume_line
from beamclip.records import SweepRecord

SWEEP = Sweep(name="my-sweep", space={"seed": choice(1, 2)})


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["/bin/beamclip", "sweep", "--space", "seed=[1]"], "beamclip sweep --name my-sweep --storage '/a b' --resume id"),
        (["/bin/beamclip", "train", "--name", "my-sweep"], "beamclip train --name my-sweep --storage '/a b' --resume id"),
        (["sweeps/mine.py", "--preset", "cifar10"], "python sweeps/mine.py --storage '/a b' --resume id"),
    ],
)
def test_the_line_to_go_on_with_finds_the_same_sweep(monkeypatch, arguments, line):
    monkeypatch.setattr(sys, "argv", arguments)
    assert resume_line(SweepRecord(SWEEP, load_experiment("demo", {"storage.path": "/a b"}), "id")) == line
    assert resume_line(SweepRecord(SWEEP, load_experiment("demo"), "id")) == line.replace(" --storage '/a b'", "")


def test_a_server_is_opened_by_its_address_and_a_database_by_mlflow():
    served = next_lines("s", load_experiment("demo", {"tracking.uri": "http://me:secret@host:5000", "storage.path": "/a b"}))
    assert "in the browser:  http://…@host:5000\n" in served
    assert served.endswith("beamclip report s --storage '/a b' --tracking-uri 'http://…@host:5000'")
    local = next_lines("s", load_experiment("demo", {"storage.path": "/x"}))
    assert "in the browser:  mlflow ui --backend-store-uri sqlite:////x/mlflow.db\n" in local
    assert "beamclip compare s --storage /x\n" in local and "--tracking-uri" not in local


def test_where_everything_is_where_it_always_is_nothing_of_it_is_said(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert next_lines("s", load_experiment("demo")).endswith("A page to send around:   beamclip report s")

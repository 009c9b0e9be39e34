import re
import sys

import pytest

from beamclip.config import Sweep, choice, load_experiment
from beamclip.stores.sweep_record import SweepRecord
from beamclip.sweep.next_steps import next_commands, resume_command

SWEEP = Sweep(name="my-sweep", space={"seed": choice(1, 2)})


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["/bin/beamclip", "sweep", "--space", "seed=[1]"],
            "beamclip sweep --name my-sweep --storage '/a b' --resume id",
        ),
        (
            ["/bin/beamclip", "train", "--name", "my-sweep"],
            "beamclip train --name my-sweep --storage '/a b' --resume id",
        ),
        (
            ["sweeps/mine.py", "--preset", "cifar10"],
            "python sweeps/mine.py --storage '/a b' --resume id",
        ),
    ],
)
def test_the_command_to_resume_names_the_same_sweep(monkeypatch, arguments, line):
    monkeypatch.setattr(sys, "argv", arguments)
    assert (
        resume_command(SweepRecord(SWEEP, load_experiment("demo", {"storage.path": "/a b"}), "id"))
        == line
    )
    assert resume_command(SweepRecord(SWEEP, load_experiment("demo"), "id")) == line.replace(
        " --storage '/a b'", ""
    )


def test_a_server_is_opened_by_its_address_and_a_database_by_mlflow():
    served = next_commands(
        "s",
        load_experiment(
            "demo", {"tracking.uri": "http://me:secret@host:5000", "storage.path": "/a b"}
        ),
    )
    assert "in the browser:  http://…@host:5000\n" in served
    assert served.endswith("beamclip report s --storage '/a b' --tracking-uri 'http://…@host:5000'")
    local = next_commands("s", load_experiment("demo", {"storage.path": "/x"}))
    assert "in the browser:  mlflow ui --backend-store-uri sqlite:////x/mlflow.db\n" in local
    assert "beamclip compare s --storage /x\n" in local and "--tracking-uri" not in local


def test_no_command_has_a_password_and_each_is_quoted(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["beamclip", "train"])
    places = {
        "storage.path": "s3://KEY:SEC/RET@bucket/x",
        "tracking.uri": "postgresql://db/mlflow?user=me&password=secret",
    }
    base = load_experiment("demo", places)
    lines = f"{next_commands('s', base, 'best')}\n{resume_command(SweepRecord(SWEEP, base, 'id'))}"
    assert not {"KEY", "SEC", "RET", "secret"} & set(re.split(r"\W", lines))
    assert (
        "--storage 's3://…@bucket/x' --tracking-uri 'postgresql://db/mlflow?user=me&password=…'"
        in lines
    )
    assert lines.endswith("beamclip train --name my-sweep --storage 's3://…@bucket/x' --resume id")
    spaced = next_commands("s", load_experiment("demo", {"storage.path": "/a b"}))
    assert "in the browser:  mlflow ui --backend-store-uri 'sqlite:////a b/mlflow.db'\n" in spaced


def test_an_invalid_storage_in_the_environment_is_ignored_for_another_storage(
    monkeypatch,
):
    monkeypatch.setenv("BEAMCLIP_STORAGE", "~nosuchuser/x")
    assert next_commands("s", load_experiment("demo", {"storage.path": "/x"})).endswith(
        "beamclip report s --storage /x"
    )


def test_default_storage_and_tracking_are_left_out(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert next_commands("s", load_experiment("demo")).endswith(
        "A report to share:       beamclip report s"
    )


def test_an_older_sweep_of_a_name_is_given_by_its_id():
    lines = next_commands(
        "s", load_experiment("demo", {"storage.path": "/x"}), "run1", "20260101-000000-0001"
    )
    for verb in ("compare", "report"):
        assert f"beamclip {verb} s --sweep 20260101-000000-0001 --storage /x\n" in lines
    assert lines.endswith("beamclip evaluate run:run1 --storage /x")

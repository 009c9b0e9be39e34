"""Mistakes of the user are one sentence on stderr and exit code 2, and leave no files."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pkgutil import resolve_name

import pytest
from helpers import tiny

from beamclip import __version__
from beamclip.cli import main as cli
from beamclip.cli.main import main, sweep_main
from beamclip.config import Sweep, choice
from beamclip.tracking import connect

pytestmark = pytest.mark.usefixtures("no_ray")
TAU_T = "objective.teacher_temperature"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--set", "objective.teacher_temp=1"],
            "objective.teacher_temp is not a setting; did you mean objective.teacher_temperature",
        ),
        (["--set", "optimizer.lr=fast"], "optimizer.lr is 'fast'"),
        (["--set", "optimizer.lr"], "--set optimizer.lr has no value"),
        (["--set", f"{TAU_T}=0"], f"{TAU_T} is 0"),
        (["--set", f"{TAU_T}=-1"], f"{TAU_T} is -1"),
        (["--set", "views.recipe=simcrl"], "recipe simcrl does not exist; did you mean simclr"),
        (["--set", "anchors.prompt_set=openai_81"], "did you mean openai_80"),
        (["--preset", "imagnet"], "preset imagnet does not exist; did you mean imagenet"),
        (["--preset", "no/such.yaml"], "no/such.yaml can't be read"),
        (["--workers", "3"], "can't be shared evenly by scaling.workers 3"),
        (["--workers", "0"], "scaling.workers is 0"),
        (["--name", "a b"], "name: 'a b' can't be the name of a folder"),
        (["--storage", "ftp5://bucket/x"], "storage ftp5://bucket/x"),
    ],
)
def test_a_bad_setting_is_named(complaint, storage, options, says):
    assert says in complaint("train", "--storage", storage, *options)
    assert not storage.exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--space", f"{TAU_T}=0.1"], f"--space {TAU_T} needs a list"),
        (["--space", f"{TAU_T}=[]"], "needs a list"),
        (["--space", TAU_T], f"--space {TAU_T} has no value"),
        (["--space", "optimizer.betas=[1]"], "optimizer.betas is not a setting"),
        (
            ["--space", f"{TAU_T}=[0.1, 0]"],
            f"{TAU_T} is 0: input should be greater than 0 (in the trial {TAU_T}=0)",
        ),
        (["--space", "probe.inverse_l2=[[1], [2]]"], "space.probe.inverse_l2"),
        (["--space", f"{TAU_T}={{low: 1, high: 2}}"], "is a range, but a grid needs listed values"),
        (
            ["--space", f"{TAU_T}={{low: 2, high: 1}}", "--search", "random"],
            "is empty; write the smaller number first",
        ),
        (
            ["--space", f"{TAU_T}={{lo: 2}}", "--search", "random"],
            "is not given and has no default",
        ),
        (["--search", "random", "--trials", "0"], "trials is 0"),
    ],
)
def test_a_bad_space_is_named(complaint, storage, options, says):
    assert says in complaint("sweep", "--storage", storage, *options)
    assert not storage.exists()


def test_a_storage_that_cannot_be_written_is_named(complaint, tmp_path):
    (tmp_path / "file").touch()
    says = complaint("train", "--storage", tmp_path / "file" / "below")
    assert "can't be written" in says
    assert "--storage" in says


def test_a_bucket_needs_a_tracking_server_and_must_exist_before_anything_starts(
    complaint, tmp_path
):
    (tmp_path / "file").touch()
    says = complaint(
        "train",
        "--storage",
        f"file://{tmp_path}/file/below",
        "--set",
        f"storage.cache={tmp_path}/cache",
    )
    assert "can't be written" in says
    says = complaint(
        "train", "--storage", f"file://{tmp_path}/runs", "--set", f"storage.cache={tmp_path}/cache"
    )
    assert "--tracking-uri" in says


def test_a_tracking_server_that_does_not_answer_is_named_and_nothing_is_prepared(
    complaint, storage
):
    with (
        socket.socket() as closed
    ):  # bound but not listening, so no other process can take the port
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert f"tracking.uri {uri}" in complaint(
            "train", "--storage", storage, "--tracking-uri", uri
        )
    assert tiny.left_behind(storage) == []


def test_resume_needs_an_earlier_sweep(complaint, storage):
    assert f"no sweep train is in {storage}/sweeps, so none can be resumed" in complaint(
        "train", "--storage", storage, "--resume"
    )
    (storage / "sweeps" / "csm_temp").mkdir(parents=True)
    assert "did you mean csm_temp?" in complaint(
        "train", "--name", "csm_tmp", "--storage", storage, "--resume"
    )
    (storage / "sweeps" / "csm_temp" / "20260101-000000-0001").mkdir()
    (storage / "sweeps" / "csm_temp" / "20260101-000000-0001" / "sweep.json").touch()
    assert "sweep.json can't be read" in complaint(
        "train", "--name", "csm_temp", "--storage", storage, "--resume"
    )


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--set", "optimizer.lr=1"], "--set optimizer.lr"),
        (["--data", "x", "--workers", "2"], "--workers"),
        (["--tracking-uri", "http://other"], "--tracking-uri"),
        (["--gpus-per-worker", "0.5"], "--gpus-per-worker"),
    ],
)
def test_resume_refuses_new_settings(complaint, storage, options, names):
    assert f"leave {names} out" in complaint("train", "--storage", storage, "--resume", *options)


def test_resume_refuses_a_new_space(complaint, storage):
    assert "leave --space out" in complaint(
        "sweep", "--storage", storage, "--resume", "--space", f"{TAU_T}=[1]"
    )


def test_a_script_takes_the_same_options(capsys, storage):
    with pytest.raises(SystemExit) as caught:
        sweep_main(
            Sweep(name="s", space={TAU_T: choice(0.1)}),
            ["--storage", str(storage), "--set", "nothing=1"],
        )
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("beamclip: nothing is not a setting")


def test_a_scripts_sweep_can_be_given_another_name(monkeypatch):
    started = []
    monkeypatch.setattr(cli, "start_sweep", lambda sweep, options: started.append(sweep))
    sweep = Sweep(name="s", space={TAU_T: choice(0.1)})
    for arguments in ([], ["--name", "other"]):
        with pytest.raises(SystemExit):
            sweep_main(sweep, arguments)
    assert [sweep.name for sweep in started] == ["s", "other"]
    assert started[1].space == sweep.space


def test_a_name_that_can_t_be_a_folder_is_an_error(capsys):
    with pytest.raises(SystemExit) as caught:
        sweep_main(Sweep(name="s", space={TAU_T: choice(0.1)}), ["--name", "a/b"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("beamclip: name")


def test_evaluating_needs_a_model_that_exists_before_images_are_packed(
    complaint, preset, storage, tmp_path
):
    options = ["--preset", preset, "--storage", storage]
    assert "none.safetensors can't be read" in complaint(
        "evaluate", tmp_path / "none.safetensors", *options
    )
    assert "resnet19 is not a timm model; did you mean resnet18" in complaint(
        "evaluate", "resnet19", "--untrained", *options
    )
    (tmp_path / "other.safetensors").write_bytes(b"{}")
    assert "other.safetensors can't be read" in complaint(
        "evaluate", tmp_path / "other.safetensors", *options
    )
    assert tiny.left_behind(storage) == []


def test_a_timm_model_is_probed_without_a_teacher(capsys, preset, storage):
    with pytest.raises(SystemExit) as caught:
        main(
            [
                "evaluate",
                "test_resnet",
                "--untrained",
                "--preset",
                str(preset),
                "--storage",
                str(storage),
            ]
        )
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "linear probe" in printed
    assert "zero-shot" not in printed
    assert not (storage / "stores" / "anchors").exists()


@pytest.mark.slow
def test_comparing_needs_a_sweep_that_exists(complaint, storage):
    assert "does not exist; run a sweep first" in complaint(
        "compare", "csm_temp", "--storage", storage
    )
    assert not storage.exists()
    storage.mkdir()
    # Creates the database.
    connect(f"sqlite:///{storage}/mlflow.db")
    assert "MLflow experiment csm_temp does not exist" in complaint(
        "compare", "csm_temp", "--storage", storage
    )


@pytest.mark.slow
def test_the_installed_command_prints_its_version_and_errors():
    command = Path(sys.executable).with_name("beamclip")
    result = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"beamclip {__version__}\n"
    result = subprocess.run(
        [command, "train", "--preset", "nothing"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("beamclip: preset nothing does not exist; known are ")


@pytest.mark.parametrize(
    "listens", [True, False], ids=["", "started with & in a script, which ignores Ctrl-C"]
)
def test_sigterm_is_handled_like_ctrl_c(capsys, listens):
    def ended():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        raise AssertionError("SIGTERM was ignored")

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler if listens else signal.SIG_IGN)
    try:
        assert cli.exit_code_of(ended) == cli.EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
    assert capsys.readouterr().err == "beamclip: interrupted; what is finished is kept\n"


def test_the_command_to_resume_is_printed_last(capsys):
    def interrupted():
        raise KeyboardInterrupt("beamclip sweep --resume")

    before = signal.getsignal(signal.SIGTERM)
    assert cli.exit_code_of(interrupted) == cli.EXIT_INTERRUPTED
    signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == (
        "beamclip: interrupted; what is finished is kept; continue with  beamclip sweep --resume\n"
    )


def test_a_sweep_may_be_started_from_any_thread():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(cli.exit_code_of, lambda: None).result() == 0


def test_the_function_of_every_command_exists():
    (commands,) = [
        action for action in cli.build_parser()._actions if isinstance(action.choices, dict)
    ]
    assert len(commands.choices) == 10
    for parser in commands.choices.values():
        assert callable(resolve_name(parser.get_default("handler")))

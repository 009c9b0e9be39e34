"""Sweeps through the real command and a real Ray, read back from MLflow."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from helpers import tiny
from mlflow import MlflowClient

from beamclip.tracking import load_published

pytestmark = pytest.mark.ray
BEAMCLIP = str(Path(sys.executable).with_name("beamclip"))
TAU_T = "objective.teacher_temperature"
SCRIPT = f"""
from beamclip.cli import sweep_main
from beamclip.config import Sweep, choice

SWEEP = Sweep(name="two", question="Does it run?", space={{"{TAU_T}": choice(0.05, 0.2)}})

if __name__ == "__main__":
    sweep_main(SWEEP)
"""


@pytest.fixture(scope="module")
def environment():
    """A local cluster, with a short path for Ray's sockets, which allow about 100 letters."""
    folder = tempfile.mkdtemp(prefix="bc", dir="/tmp")
    yield os.environ | {"RAY_ADDRESS": "local", "RAY_TMPDIR": folder, "COLUMNS": "140"}
    shutil.rmtree(folder, ignore_errors=True)


def run(environment, *command, timeout=240):
    words = list(map(str, command))
    return subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def sentences(result):
    return [line for line in re.split(r"[\r\n]+", result.stderr) if line.startswith("beamclip: ")]


class Runs:
    """The runs in MLflow of the sweeps of a name."""

    def __init__(self, storage, name):
        self.client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
        self.experiment = self.client.get_experiment_by_name(name)

    def of(self, kind):
        return self.client.search_runs(
            [self.experiment.experiment_id],
            f"tags.kind = '{kind}'",
            order_by=["attributes.start_time"],
        )

    def statuses(self):
        return sorted(run.info.status for run in self.of("trial"))

    def artifacts(self, run):
        return sorted(file.path for file in self.client.list_artifacts(run.info.run_id))


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def two_trials(environment, preset, storage, tmp_path_factory):
    """The output of a script like those in sweeps/, with two trials of two workers each."""
    script = tmp_path_factory.mktemp("script") / "two.py"
    script.write_text(SCRIPT)
    result = run(
        environment,
        sys.executable,
        script,
        "--preset",
        preset,
        "--storage",
        storage,
        "--workers",
        2,
    )
    assert result.returncode == 0, result.stderr
    return result


def test_a_sweep_is_a_parent_with_its_trials_one_level_below(two_trials, storage):
    runs = Runs(storage, "two")
    (parent,), trials = runs.of("sweep"), runs.of("trial")
    assert len(trials) == 2
    children = [*trials, *runs.of("reference")]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert {child.info.status for child in [parent, *children]} == {"FINISHED"}
    assert sorted(child.data.tags["method"] for child in runs.of("reference")) == [
        "teacher",
        "untrained",
    ]
    assert len(runs.of("published")) == len(load_published())
    assert {run.data.tags["source"] for run in runs.of("published")} == {"published"}


def test_a_trial_has_its_settings_provenance_and_metrics(two_trials, storage):
    trials = Runs(storage, "two").of("trial")
    assert sorted(trial.data.params[TAU_T] for trial in trials) == ["0.05", "0.2"]
    for trial in trials:
        assert (trial.data.params["scaling.workers"], trial.data.params["student.backbone"]) == (
            "2",
            "test_resnet",
        )
        expected = {
            "method": "csm",
            "source": "measured",
            "student": "test_resnet",
            "prompt_set": "plain",
            "kind": "trial",
        }
        assert expected.items() <= trial.data.tags.items()
        assert {
            "dataset",
            "teacher",
            "git_revision",
            "version.torch",
            "data_key",
            "teacher_fingerprint",
        } <= trial.data.tags.keys()
        keys = {
            "train/loss",
            "train/images_per_second",
            "train/data_wait",
            "zero_shot/val_top1",
            "zero_shot/test_top1",
        }
        keys |= {
            "linear_probe/val_top1",
            "linear_probe/test_top1",
            "linear_probe/test_top1_low",
            "knn/test_top1",
        }
        assert keys <= trial.data.metrics.keys()
        assert trial.data.metrics["teacher/images_encoded"] == 0
        assert trial.data.metrics["linear_probe/test_top1"] > 50  # four colors; 25 % by chance


def test_a_trials_files_and_the_sweeps_settings_and_plot_are_kept(two_trials, storage):
    runs = Runs(storage, "two")
    (parent,) = runs.of("sweep")
    assert runs.artifacts(parent) == [
        "accuracy.png",
        "accuracy_cost.png",
        "anchors",
        "anchors.csv",
        "config.yaml",
    ]
    config = yaml.safe_load(
        Path(runs.client.download_artifacts(parent.info.run_id, "config.yaml")).read_text()
    )
    assert config["scaling"]["workers"] == 2
    for trial in runs.of("trial"):
        kept = [
            "anchors.json",
            "config.yaml",
            "evaluation.json",
            "predictions.safetensors",
            "probe.safetensors",
            "student.safetensors",
        ]
        assert runs.artifacts(trial) == kept
        report = json.loads(
            Path(runs.client.download_artifacts(trial.info.run_id, "anchors.json")).read_text()
        )
        assert (report["anchors"], report["prompts"], report["hash"]) == (
            4,
            4,
            trial.data.tags["anchors_hash"],
        )
    pictures = runs.client.download_artifacts(parent.info.run_id, f"anchors/{report['hash']}")
    assert {path.name for path in Path(pictures).iterdir()} == {"heat_map.png", "nearest_pairs.csv"}


def test_the_table_and_the_next_commands_are_printed(two_trials, storage):
    assert "* best" in two_trials.stdout
    assert f"beamclip compare two --storage {storage}" in two_trials.stdout
    assert "Traceback" not in two_trials.stderr


def test_a_kept_student_is_probed_by_evaluate(two_trials, storage, environment, preset):
    runs = Runs(storage, "two")
    trial = runs.of("trial")[0]
    student = runs.client.download_artifacts(trial.info.run_id, "student.safetensors")
    result = run(
        environment, BEAMCLIP, "evaluate", student, "--preset", preset, "--storage", storage
    )
    assert result.returncode == 0, result.stderr
    found = re.search(r"linear probe +│ *[\d.]+ │ *([\d.]+)", result.stdout)
    assert float(found.group(1)) == pytest.approx(
        trial.data.metrics["linear_probe/test_top1"], abs=0.01
    )


def test_a_trial_that_diverges_fails_with_a_message_and_the_others_finish(
    two_trials, storage, environment, preset
):
    space = ["--space", "optimizer.lr=[1e37, 0.05]"]
    result = run(
        environment,
        BEAMCLIP,
        "sweep",
        "--name",
        "lr",
        "--preset",
        preset,
        "--storage",
        storage,
        *space,
    )
    assert result.returncode == 0, result.stderr  # the sweep itself ended normally
    runs = Runs(storage, "lr")
    diverged, fine = sorted(
        runs.of("trial"), key=lambda trial: -float(trial.data.params["optimizer.lr"])
    )
    assert (diverged.info.status, fine.info.status, runs.of("sweep")[0].info.status) == (
        "FAILED",
        "FINISHED",
        "FINISHED",
    )
    assert diverged.data.tags["beamclip.error"].startswith("the loss is not finite at step")
    assert "Traceback" not in result.stderr
    evidence = json.loads(
        Path(runs.client.download_artifacts(diverged.info.run_id, "diverged.json")).read_text()
    )
    assert evidence["config"]["optimizer"]["lr"] == 1e37 and evidence["step"] >= 1
    assert len(set(evidence["samples"])) == evidence["config"]["optimizer"]["batch_size"]
    (teacher,) = [run for run in runs.of("reference") if run.data.tags["method"] == "teacher"]
    # The stores of the first sweep serve this one too.
    assert teacher.data.metrics["teacher/images_encoded"] == 0


INIT_SCRIPT = """
from beamclip.cli import sweep_main
from beamclip.config import Sweep, choice

VARIANTS = {
    "first": {"objective.name": "simclr"},
    "second": {"objective.name": "csm", "student.init": "variant:first"},
}
SWEEP = Sweep(
    name="starts", question="?", variants=VARIANTS, space={"variant": choice(*VARIANTS)}
)
if __name__ == "__main__":
    sweep_main(SWEEP)
"""


def test_a_trial_starts_from_another_of_its_sweep_and_a_run_from_any(
    two_trials, storage, environment, preset, tmp_path
):
    script = tmp_path / "starts.py"
    script.write_text(INIT_SCRIPT)
    options = [
        "--preset",
        preset,
        "--storage",
        os.path.relpath(storage),
    ]
    # A slot for one trial: the one that waits must not take it from the one that it waits for.
    # `test_losses.py` has more seeds.
    one_at_once = ("--set", "scaling.max_concurrent=1")
    result = run(environment, sys.executable, script, *options, *one_at_once)
    assert result.returncode == 0, result.stderr
    trials = Runs(storage, "starts").of("trial")
    assert sorted((t.data.params["variant"], t.info.status) for t in trials) == [
        ("first", "FINISHED"),
        ("second", "FINISHED"),
    ]
    last = next(t for t in trials if t.data.params["variant"] == "second")
    assert (
        last.data.params["student.init"] == "variant:first"
        and "zero_shot/test_top1" in last.data.metrics
    )
    result = run(
        environment, BEAMCLIP, "train", *options, "--set", f"student.init=run:{last.info.run_id}"
    )
    assert result.returncode == 0, result.stderr
    (again,) = Runs(storage, "train").of("trial")
    assert last.info.run_id in again.data.params["student.init"]


def test_asha_stops_a_poor_trial_and_the_next_gets_its_resources(environment, preset, storage):
    # A placement group that is not freed would keep the third trial from ever starting.
    whole_machine = f"scaling.cpus_per_worker={os.cpu_count()}"
    options = [
        "--space",
        "optimizer.lr=[0.05, 1e-12, 0.04]",
        "--asha",
        "--set",
        "optimizer.epochs=6",
        "--set",
        whole_machine,
    ]
    result = run(
        environment,
        BEAMCLIP,
        "sweep",
        "--name",
        "asha",
        "--preset",
        preset,
        "--storage",
        storage,
        *options,
    )
    assert result.returncode == 0, result.stderr
    runs = Runs(storage, "asha")
    assert runs.statuses() == ["FINISHED"] * 3
    evaluated = {
        float(t.data.params["optimizer.lr"]): "linear_probe/test_top1" in t.data.metrics
        for t in runs.of("trial")
    }
    assert evaluated == {0.05: True, 1e-12: False, 0.04: evaluated[0.04]}


class Background:
    """A sweep in the background, to be interrupted."""

    def __init__(self, environment, command, log):
        self.log = log
        self.file = log.open("w")
        streams = {"stdout": self.file, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(
            list(map(str, command)), env=environment, start_new_session=True, **streams
        )

    def wait_for(self, storage, name, finished):
        """Wait until so many trials have finished and the next has reported an epoch."""
        end = time.monotonic() + 200
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            if list((storage / "sweeps" / name).glob("*/sweep.json")):
                trials = Runs(storage, name).of("trial")
                running = [
                    t
                    for t in trials
                    if t.info.status == "RUNNING" and "train/loss" in t.data.metrics
                ]
                if running and sum(t.info.status == "FINISHED" for t in trials) == finished:
                    return
            time.sleep(0.3)
        raise TimeoutError(self.log.read_text())

    def end(self, number, whole_group):
        """Send a signal to the whole group (as Ctrl-C does) or one process; return the status."""
        (os.killpg if whole_group else os.kill)(self.process.pid, number)
        code = self.process.wait(60)
        self.file.close()
        return code


def test_a_sweep_continues_in_the_same_runs_after_ctrl_c_a_sigterm_and_a_kill(
    environment, preset, storage, tmp_path
):
    space = [
        "--space",
        f"{TAU_T}=[0.05, 0.1, 0.2]",
        "--set",
        "optimizer.epochs=12",
        "--set",
        "scaling.max_concurrent=1",
    ]
    start = [BEAMCLIP, "sweep", "--name", "long", "--preset", preset, "--storage", storage, *space]

    sweep = Background(environment, start, tmp_path / "first.log")
    sweep.wait_for(storage, "long", finished=1)
    assert sweep.end(signal.SIGINT, whole_group=True) == 130
    runs = Runs(storage, "long")
    first = {run.info.run_id: run.info.status for run in runs.of("trial")}
    assert sorted(first.values()) == ["FINISHED", "KILLED"]
    assert runs.of("sweep")[0].info.status == "KILLED"
    line = re.search(
        r"interrupted; what is finished is kept; continue with  (.+)", sweep.log.read_text()
    ).group(1)
    assert re.fullmatch(
        rf"beamclip sweep --name long --storage {storage} --resume \d{{8}}-\d{{6}}-\d{{4}}", line
    )

    resume = [BEAMCLIP, *shlex.split(line)[1:]]
    again = Background(environment, resume, tmp_path / "second.log")
    again.wait_for(storage, "long", finished=2)
    assert (
        again.end(signal.SIGTERM, whole_group=False) == 130
    )  # as `ray job stop`, Slurm and Kubernetes do
    assert sorted(runs.statuses()) == ["FINISHED", "FINISHED", "KILLED"]
    assert (
        f"continue with  {line}" in again.log.read_text()
        and "Traceback" not in again.log.read_text()
    )

    once_more = Background(environment, resume, tmp_path / "third.log")
    once_more.wait_for(storage, "long", finished=2)
    assert once_more.end(signal.SIGKILL, whole_group=False) == -signal.SIGKILL

    result = run(environment, *resume)
    assert result.returncode == 0, result.stderr
    assert len(runs.of("sweep")) == 1
    trials = {run.info.run_id: run for run in runs.of("trial")}
    assert len(trials) == 3
    assert first.keys() <= trials.keys()
    assert {run.info.status for run in [*trials.values(), *runs.of("sweep")]} == {"FINISHED"}
    for run_id in trials:
        epochs = [point.step for point in runs.client.get_metric_history(run_id, "train/data_wait")]
        # Reports between the driver's death and the workers' are missing, but no trial started
        # over. After each interruption, an epoch whose checkpoint was incomplete is repeated.
        assert max(epochs) == 12
        assert epochs.count(1) == 1
        assert len(epochs) <= 12 + 2
        assert "linear_probe/test_top1" in trials[run_id].data.metrics

    result = run(environment, *resume)  # nothing is left to do
    assert result.returncode == 0, result.stderr
    assert {run.info.status for run in [*runs.of("trial"), *runs.of("sweep")]} == {"FINISHED"}


@pytest.mark.slow
def test_a_sweep_whose_inputs_were_moved_resumes_with_their_new_places(
    environment, images, color_teacher, tmp_path
):
    # The inputs in their first place, for an interrupted sweep.
    first, now, storage = tmp_path / "first", tmp_path / "now", tmp_path / "storage"
    shutil.copytree(images, first / "images")
    shutil.copytree(color_teacher, first / "teacher")
    (first / "names.txt").write_text("\n".join(sorted(tiny.COLORS)))
    preset = tiny.write_preset(tmp_path / "tiny.yaml", first / "images", first / "teacher")
    names = f"data.class_names={first / 'names.txt'}"
    located = ["--preset", preset, "--storage", storage]
    settings = ["--space", f"{TAU_T}=[0.05, 0.2]", "--set", "optimizer.epochs=8"]
    settings += ["--set", "scaling.max_concurrent=1"]
    start = [BEAMCLIP, "sweep", "--name", "moves", *located, *settings, "--set", names]
    sweep = Background(environment, start, tmp_path / "first.log")
    sweep.wait_for(storage, "moves", finished=1)
    assert sweep.end(signal.SIGINT, whole_group=True) == 130
    runs = Runs(storage, "moves")
    begun = {run.info.run_id for run in runs.of("trial")}
    (record,) = storage.glob("sweeps/moves/*/sweep.json")
    keys = set(json.loads(record.read_text())["assets"])

    # Elsewhere, nothing is found; without the option, the message names it.
    first.rename(now)
    resume = [BEAMCLIP, "sweep", "--name", "moves", "--storage", storage, "--resume"]
    (sentence,) = sentences(run(environment, *resume))
    assert sentence == (
        f"beamclip: data.path {first}/images does not exist; if it was moved, add --data DIR to "
        "--resume"
    )

    # Other content is refused.
    places = ["--set", f"teacher.model=local-dir:{now}/teacher"]
    places += ["--set", f"data.class_names={now}/names.txt"]
    shutil.copytree(now / "images", tmp_path / "fewer")
    (tmp_path / "fewer" / "train" / "red" / "0.jpg").unlink()
    result = run(environment, *resume, "--data", tmp_path / "fewer", *places)
    assert result.returncode == 2
    assert f"beamclip: data.path {tmp_path}/fewer differs from {first}/images" in result.stderr
    assert "moved" not in json.loads(record.read_text())

    # The same content in its new place continues the same runs.
    result = run(environment, *resume, "--data", now / "images", *places)
    assert result.returncode == 0, result.stderr
    assert (
        f"beamclip: data.path {first}/images is now read from {now}/images, with the same content "
        "as when the sweep began" in " ".join(result.stderr.split())
    )
    content = json.loads(record.read_text())
    assert content["moved"]["data.path"] == {f"{first}/images": f"{now}/images"}
    assert set(content["assets"]) == keys
    trials = runs.of("trial")
    assert begun <= {trial.info.run_id for trial in trials} and len(trials) == 2
    assert {trial.info.status for trial in [*trials, *runs.of("sweep")]} == {"FINISHED"}
    assert len(runs.of("reference")) == 2

    # Undisturbed, the same trials come to the same results, from the same stores.
    again = [BEAMCLIP, "sweep", "--name", "undisturbed", *located, *settings, *places]
    result = run(environment, *again, "--data", now / "images")
    assert result.returncode == 0, result.stderr
    undisturbed = Runs(storage, "undisturbed")
    assert results(undisturbed) == results(runs)
    stores = {json.loads(text)["packed"] for text in content["assets"].values()}
    (other,) = storage.glob("sweeps/undisturbed/*/sweep.json")
    assets = json.loads(other.read_text())["assets"].values()
    assert {json.loads(text)["packed"] for text in assets} == stores


def results(runs):
    metrics = ("linear_probe/val_top1", "linear_probe/test_top1", "zero_shot/test_top1")
    return {
        trial.data.params[TAU_T]: [trial.data.metrics[metric] for metric in metrics]
        for trial in runs.of("trial")
    }


def test_more_workers_than_the_cluster_can_ever_hold_are_a_user_error(
    environment, preset, tmp_path
):
    options = [
        "--preset",
        preset,
        "--storage",
        tmp_path,
        "--set",
        "optimizer.batch_size=8192",
        "--workers",
        4096,
    ]
    result = run(environment, BEAMCLIP, "train", *options)
    assert result.returncode == 2, result.stderr
    (sentence,) = sentences(result)
    assert sentence.startswith("beamclip: scaling.workers 4096 × 0.5 CPU is more than the ")
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "sweeps").exists()


def test_errors_found_by_the_preparation_are_user_errors_too(environment, preset, tmp_path):
    options = [
        "--preset",
        preset,
        "--storage",
        tmp_path,
        "--space",
        "student.backbone=[resnet999, test_resnet]",
    ]
    result = run(environment, BEAMCLIP, "sweep", *options)
    assert result.returncode == 2, result.stderr
    (sentence,) = sentences(result)
    assert sentence.startswith(
        "beamclip: student.backbone resnet999 is not a timm model; did you mean "
    )
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "sweeps").exists()
    assert list((tmp_path / "stores").iterdir()) == []
    assert Runs(tmp_path, "sweep").of("sweep") == []  # there it would count as the latest sweep

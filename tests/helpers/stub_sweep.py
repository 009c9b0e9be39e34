"""Run a sweep with a real Ray Tune whose trials only pretend to train.

    python stub_sweep.py STORAGE BEHAVIOR CONCURRENT [--resume]

Prints, as a line of JSON, whether the sweep ended, the events its listener received, and what its
trials did. There are two variants, `first` and `second`, which starts from the student of `first`.

BEHAVIOR: `well`; `killed once` and `killed`, in which the process of each `first` dies once or
always; `raises`, in which each `first` raises; `fills the machine`, in which each trial has a
worker that takes all CPUs but the share that is left to drivers.
"""

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import ray

from beamclip.config import Sweep, choice, load_experiment, planned_values, trial_experiment
from beamclip.distributed.cluster import DRIVER_CPUS
from beamclip.stores.paths import asset_key
from beamclip.stores.sweep_record import SweepRecord

VARIANTS = {
    "first": {"objective.name": "simclr"},
    "second": {"objective.name": "csm", "student.init": "variant:first"},
}


class Listener:
    """Keeps the events of trials."""

    def __init__(self):
        self.events = []

    def on_restore(self, trials):
        self.events.append(["restored", len(trials)])

    def on_trial_start(self, trial_id, values):
        self.events.append(["started", values["variant"], values["seed"]])

    def on_trial_result(self, trial_id, metrics):
        self.events.append(["reported"])

    def on_trial_end(self, trial_id, status, error):
        self.events.append(["ended", status, error])


class StubCheckpoint:
    """As Ray's, of a trial that was probed."""

    def as_directory(self):
        folder = tempfile.mkdtemp()
        for name in ("student", "probe"):
            Path(folder, f"{name}.safetensors").touch()
        return contextlib.nullcontext(folder)


def make_run_trial(storage, behavior):
    """Return a function to put in the place of `run_trial`."""
    log = Path(storage, "log.jsonl")

    def record(event, name, seed):
        with log.open("a") as file:
            file.write(json.dumps([time.time(), event, name, seed]) + "\n")

    def run_trial(experiment, assets, folder):
        seed = experiment.seed
        name = "first" if experiment.objective.name == "simclr" else "second"
        record("begun", name, seed)
        attempts = log.read_text().count(f'"begun", "{name}", {seed}]')
        time.sleep(1)
        if name == "first" and (
            behavior == "killed" or (behavior == "killed once" and attempts == 1)
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "first" and behavior == "raises":
            raise RuntimeError("boom")
        if behavior == "fills the machine":
            cpus = ray.cluster_resources()["CPU"] - DRIVER_CPUS
            # The default strategy: not within the driver's own placement group.
            worker = ray.remote(lambda: None).options(num_cpus=cpus, scheduling_strategy="DEFAULT")
            ray.get(worker.remote(), timeout=60)
        record("done", name, seed)
        return StubCheckpoint()

    return run_trial


def main(storage, behavior, concurrent, *resume):
    """Run the sweep and print what happened."""
    from beamclip.distributed import tune
    from beamclip.distributed.cluster import connect, disconnect

    space = {"variant": choice(*VARIANTS), "seed": choice(0, 1)}
    sweep = Sweep(name="stub", variants=VARIANTS, space=space)
    base = load_experiment("demo", {"storage.path": storage})
    assets = {
        asset_key(trial_experiment(sweep, base, values)): "{}" for values in planned_values(sweep)
    }
    record = SweepRecord(sweep, base, "20260101-000000-0001", assets)
    listener = Listener()
    tune.run_trial = make_run_trial(storage, behavior)
    connect()
    ended = tune.run_trials(record, listener, int(concurrent), bool(resume))
    disconnect()
    log = Path(storage, "log.jsonl")
    trials = [json.loads(line) for line in log.read_text().splitlines()]
    print(json.dumps({"ended": ended, "events": listener.events, "trials": trials}))
    log.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])

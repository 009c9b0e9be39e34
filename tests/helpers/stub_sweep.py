"""A sweep with a real Ray Tune whose trials only pretend to train: `python stub_sweep.py STORAGE WHAT CONCURRENT [--resume]`.

Prints what the listener heard, and what the trials did, as two lines of JSON. What a trial does is `WHAT`'s: `well`; `killed once` and
`killed`, where the process of the trial `first` dies; `raises`, where `first` does; `fills the machine`, where each has a worker that
takes all CPUs but for what is left to drivers.
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

from beamclip.config import Sweep, cell, choice, load_experiment, planned_values
from beamclip.distributed.cluster import DRIVER_CPUS
from beamclip.stores.paths import asset_key
from beamclip.stores.sweep_record import SweepRecord

VARIANTS = {
    "first": {"objective.name": "simclr"},
    "second": {"objective.name": "csm", "student.init": "variant:first"},
}


class Listener:
    def __init__(self):
        self.heard = []

    def on_restore(self, results):
        self.heard.append(["over before", len(results)])

    def started(self, trial_id, values):
        self.heard.append(["started", values["variant"], values["seed"]])

    def reported(self, trial_id, metrics):
        self.heard.append(["reported"])

    def ended(self, trial_id, status, error):
        self.heard.append(["ended", status, error])


def stub(storage, what):
    """In the place of `run_trial`."""

    def run_trial(config):
        experiment = json.loads(config["experiment"])
        name = "first" if experiment["objective"]["name"] == "simclr" else "second"
        log = Path(storage, "log.jsonl")
        with log.open("a") as file:
            file.write(json.dumps([time.time(), "begun", name, experiment["seed"]]) + "\n")
        times = log.read_text().count(f'"begun", "{name}", {experiment["seed"]}]')
        time.sleep(1)
        if name == "first" and (what == "killed" or (what == "killed once" and times == 1)):
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "first" and what == "raises":
            raise RuntimeError("boom")
        if what == "fills the machine":
            whole = ray.cluster_resources()["CPU"] - DRIVER_CPUS
            worker = ray.remote(lambda: None).options(
                num_cpus=whole, scheduling_strategy="DEFAULT"
            )  # not in the driver's own place
            ray.get(worker.remote(), timeout=60)
        folder = tempfile.mkdtemp()
        for part in ("student", "probe"):
            Path(folder, f"{part}.safetensors").touch()
        with log.open("a") as file:
            file.write(json.dumps([time.time(), "done", name, experiment["seed"]]) + "\n")

        class Checkpoint:
            def as_directory(self):
                return contextlib.nullcontext(folder)

        return Checkpoint()

    return run_trial


def main(storage, what, concurrent, *resume):
    from beamclip.distributed import tune as sweeps
    from beamclip.distributed.cluster import connect, disconnect

    space = {"variant": choice(*VARIANTS), "seed": choice(0, 1)}
    sweep, base = (
        Sweep(name="stub", variants=VARIANTS, space=space),
        load_experiment("demo", {"storage.path": storage}),
    )
    keys = {asset_key(cell(sweep, base, values)): "{}" for values in planned_values(sweep)}
    record, listener = SweepRecord(sweep, base, "20260101-000000-0001", keys), Listener()
    sweeps.run_trial = stub(storage, what)
    connect()
    ended = sweeps.run_trials(record, listener, int(concurrent), bool(resume))
    disconnect()
    log = Path(storage, "log.jsonl")
    print(
        json.dumps(
            {
                "ended": ended,
                "heard": listener.heard,
                "done": [json.loads(line) for line in log.read_text().splitlines()],
            }
        )
    )
    log.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])

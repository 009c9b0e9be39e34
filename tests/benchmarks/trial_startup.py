"""Compare the start-up time of a trial: Ray's own TorchTrainer with its defaults, and ours.

    python tests/benchmarks/trial_startup.py --trials 3

Each trial starts two gloo workers on the CPU, reduces one number, reports once with a checkpoint
and ends. Both trainers run in turn.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def train_function(config: dict[str, Any]) -> None:
    """Reduce one number over the workers and report once with a checkpoint."""
    import ray.train
    import torch
    import torch.distributed as dist

    dist.all_reduce(torch.ones(1))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "state").write_text("done")
        first = ray.train.get_context().get_world_rank() == 0
        ray.train.report(
            {"loss": 1.0}, checkpoint=ray.train.Checkpoint.from_directory(folder) if first else None
        )


def drive(config: dict[str, Any]) -> None:
    """Run one trial with the trainer that `config["ours"]` chooses."""
    import ray.train
    import ray.tune
    from ray.tune.integration.ray_train import TuneReportCallback

    run_config = ray.train.RunConfig(
        name=ray.tune.get_context().get_trial_id(),
        storage_path=config["storage"],
        callbacks=[TuneReportCallback()],
    )
    scaling = ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.9})
    if config["ours"]:
        from beamclip.distributed.trainer import ProcessGroupConfig, Trainer

        Trainer(
            train_function,
            backend_config=ProcessGroupConfig("gloo"),
            scaling_config=scaling,
            run_config=run_config,
        ).fit()
    else:
        from ray.train.torch import TorchTrainer

        TorchTrainer(train_function, scaling_config=scaling, run_config=run_config).fit()


def measure(ours: bool, trials: int) -> None:
    """Run the trials one after the other and print the seconds per trial."""
    if ours:
        from beamclip.distributed.cluster import connect

        os.environ["RAY_ADDRESS"] = "local"
        connect()
    import ray
    import ray.tune

    if not ours:
        ray.init(address="local", log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        space = {
            "x": ray.tune.grid_search(list(range(trials))),
            "ours": ours,
            "storage": f"{folder}/train",
        }
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(drive, {"CPU": 0.01}),
            param_space=space,
            tune_config=ray.tune.TuneConfig(max_concurrent_trials=1),
            run_config=ray.tune.RunConfig(name="tune", storage_path=folder, verbose=0),
        )
        start = time.perf_counter()
        results = tuner.fit()
        assert results.num_errors == 0
        print(f"SECONDS {(time.perf_counter() - start) / trials:.2f}")


def main() -> None:
    """Measure both trainers in turn, each in its own process, and print their times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=("ray", "ours"))
    options = parser.parse_args()
    if options.only:
        return measure(options.only == "ours", options.trials)
    for number in range(options.rounds):
        ray_seconds = _run("ray", options.trials)
        our_seconds = _run("ours", options.trials)
        print(
            f"round {number + 1}: TorchTrainer {ray_seconds:.1f} s per trial, "
            f"ours {our_seconds:.1f} s, {ray_seconds / our_seconds:.1f} times faster",
            flush=True,
        )
    return None


def _run(name: str, trials: int) -> float:
    command = [sys.executable, __file__, "--only", name, "--trials", str(trials)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(next(line for line in out.splitlines() if line.startswith("SECONDS")).split()[1])


if __name__ == "__main__":
    main()

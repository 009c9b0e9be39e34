"""Run one experiment in this process, on one device, without Ray and MLflow.

    python tests/benchmarks/one_run.py --preset docs/results/simclr200.yaml --data DIR \
        [--set KEY=VALUE …] [--stores DIR]

Stores, loop and probes are the same as in a trial. Only the stores are written to disk. The script
prints the images per second of an epoch (median, without the first epoch, which warms up), the
share of time spent waiting for data, and the results.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from beamclip.config import Experiment, load_experiment, parse_assignments, with_values
from beamclip.preparation.build import prepare
from beamclip.preparation.context import PreparationContext
from beamclip.training.context import Context
from beamclip.training.evaluate import probe_student
from beamclip.training.loop import train_epoch
from beamclip.training.setup import Run, build_run


def main() -> None:
    """Prepare the stores, train and probe the student, and print the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", required=True)
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--stores", type=Path, help="folder in which stores are kept (default: a temporary one)"
    )
    parser.add_argument(
        "--every", type=int, default=10, metavar="N", help="print a line every N epochs"
    )
    parser.add_argument(
        "--fit",
        type=float,
        metavar="SECONDS",
        help="train fewer epochs if they would take longer, judging by the first three",
    )
    parser.add_argument("--no-probe", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        experiment = load_experiment(
            options.preset,
            {"data.path": options.data, "data.source": "auto"} | parse_assignments(options.set),
        )
        start = time.perf_counter()
        assets = prepare(experiment, PreparationContext(options.stores or Path(scratch), device))
        print(f"prepared in {time.perf_counter() - start:.1f} s", flush=True)
        run = build_run(experiment, assets, Context(device=device))
        if options.fit:
            experiment = limit_epochs(run, options.fit)
            run = build_run(experiment, assets, Context(device=device))
        train(run, options.every)
        if not options.no_probe:
            probe(run)


def limit_epochs(run: Run, seconds: float) -> Experiment:
    """Return the experiment with as many epochs as fit, at the rate of this run's third epoch."""
    for epoch in range(3):
        metrics = train_epoch(run.train_state, run.batches(epoch), run.context, 0).metrics
    rate = metrics["train/images_per_second"]
    planned = run.experiment.optimizer.epochs
    images_per_epoch = run.steps_per_epoch * run.experiment.optimizer.batch_size
    epochs = min(planned, int(seconds * rate / images_per_epoch))
    print(f"{rate:.0f} images/s: {epochs} of {planned} epochs fit into {seconds:.0f} s", flush=True)
    return with_values(run.experiment, {"optimizer.epochs": epochs})


def train(run: Run, every: int) -> None:
    """Train all epochs; print a line every few of them and the medians at the end."""
    start = time.perf_counter()
    rates = []
    waits = []
    epochs = run.experiment.optimizer.epochs
    for epoch in range(epochs):
        metrics = train_epoch(
            run.train_state, run.batches(epoch), run.context, epoch * run.steps_per_epoch
        ).metrics
        rates.append(metrics["train/images_per_second"])
        waits.append(metrics["train/data_wait"])
        if epoch % every == 0 or epoch == epochs - 1:
            seconds = time.perf_counter() - start
            print(
                f"epoch {epoch + 1}: loss {metrics['train/loss']:.4f}, "
                f"{rates[-1]:.0f} images/s, {seconds:.0f} s",
                flush=True,
            )
    seconds = time.perf_counter() - start
    rate = statistics.median(rates[1:] or rates)
    wait = statistics.median(waits[1:] or waits)
    print(
        f"{seconds:.1f} s of training; {rate:.0f} images/s, data wait {wait:.1f} % (medians)",
        flush=True,
    )


def probe(run: Run) -> None:
    """Evaluate the student with the probes of a trial and print the metrics."""
    start = time.perf_counter()
    config = run.experiment.probe
    projected = run.experiment.objective.requirements.projected
    evaluation = probe_student(run.student, run.opened, run.pixels, config, run.context, projected)
    # Only workers other than the first get None.
    assert evaluation is not None
    print(f"probed in {time.perf_counter() - start:.1f} s", flush=True)
    print(json.dumps({key: round(value, 2) for key, value in sorted(evaluation.metrics.items())}))


if __name__ == "__main__":
    main()

"""One experiment in this very process, without Ray and MLflow: what it takes and what it reaches, on one device.

    python tests/benchmarks/one_run.py --preset docs/results/simclr200.yaml --data DIR [--set KEY=VALUE …] [--stores DIR]

The same stores, loop and probes as in a trial; nothing is written but the stores. Prints what an epoch trains per second (the median
without the first, which warms up), the share of time spent waiting for data, and the results.
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
    """Prepare, train, probe, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", required=True)
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--stores", type=Path, help="where stores are looked for and kept (default: nowhere)"
    )
    parser.add_argument(
        "--every", type=int, default=10, metavar="N", help="print a line every so many epochs"
    )
    parser.add_argument(
        "--fit",
        type=float,
        metavar="SECONDS",
        help="train fewer epochs where they would not fit; measured on the first",
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
            experiment = fitting(run, options.fit)
            run = build_run(experiment, assets, Context(device=device))
        train(run, options.every)
        if not options.no_probe:
            probe(run)


def fitting(run: Run, seconds: float) -> Experiment:
    """The experiment of as many epochs as fit, at the rate of this run's third epoch."""
    for epoch in range(3):
        rate = train_epoch(run.train_state, run.batches(epoch), run.context, 0).metrics[
            "train/images_per_second"
        ]
    wanted = run.experiment.optimizer.epochs
    epochs = min(
        wanted, int(seconds * rate / (run.steps_per_epoch * run.experiment.optimizer.batch_size))
    )
    print(f"{rate:.0f} images/s: {epochs} of {wanted} epochs fit into {seconds:.0f} s", flush=True)
    return with_values(run.experiment, {"optimizer.epochs": epochs})


def train(run: Run, every: int) -> None:
    """All epochs, with a line now and then."""
    start, rates, waits = time.perf_counter(), [], []
    epochs = run.experiment.optimizer.epochs
    for epoch in range(epochs):
        metrics = train_epoch(
            run.train_state, run.batches(epoch), run.context, epoch * run.steps_per_epoch
        ).metrics
        rates.append(metrics["train/images_per_second"])
        waits.append(metrics["train/data_wait"])
        if epoch % every == 0 or epoch == epochs - 1:
            took = time.perf_counter() - start
            print(
                f"epoch {epoch + 1}: loss {metrics['train/loss']:.4f}, {rates[-1]:.0f} images/s, {took:.0f} s",
                flush=True,
            )
    rate, wait = statistics.median(rates[1:] or rates), statistics.median(waits[1:] or waits)
    print(
        f"{time.perf_counter() - start:.1f} s of training; {rate:.0f} images/s, data wait {wait:.1f} % (medians)",
        flush=True,
    )


def probe(run: Run) -> None:
    """The probes of every trial."""
    start, config = time.perf_counter(), run.experiment.probe
    projected = run.experiment.objective.requirements.projected
    evaluation = probe_student(run.student, run.opened, run.pixels, config, run.context, projected)
    assert evaluation is not None  # it is None on all workers but the first
    print(f"probed in {time.perf_counter() - start:.1f} s", flush=True)
    print(json.dumps({key: round(value, 2) for key, value in sorted(evaluation.metrics.items())}))


if __name__ == "__main__":
    main()

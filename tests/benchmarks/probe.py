"""A grid of linear probes at once, against scikit-learn's LogisticRegression one setting after the other.

    python tests/benchmarks/probe.py [--images 10000] [--width 512] [--classes 10 200] [--cells 20] [--threads 2]

Features are made up: each class a point in 64 dimensions, noise around it, two random layers with ReLU, so that they are correlated and
non-negative as a ResNet's are, and classes overlap. `beamclip` is what a run's evaluation does: all cells
on train, chosen on val, the chosen one fitted again on train and val. scikit-learn fits as many C over the same range as the weight
decays, at its default tolerance and at most 1,000 iterations, on standardised features in fp32; its best C on val is fitted again on
train and val, too. Both take turns on the same threads; scikit-learn's time is not extrapolated.
"""

import argparse
import math
import time
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from beamclip.config import ProbeConfig
from beamclip.evaluation import LabeledFeatures, accuracy, select_probe
from beamclip.evaluation.linear_probe import fit_standardizer

SIGNAL = {10: 0.25, 200: 0.5}


def made_up(count: int, width: int, classes: int, seed: int) -> LabeledFeatures:
    """The same classes and layers for every seed."""
    g = torch.Generator().manual_seed(7)
    groups = max(2, classes // 5)
    centres = torch.randn(groups, 64, generator=g)[
        torch.arange(classes) % groups
    ] + 0.7 * torch.randn(classes, 64, generator=g)
    first, second = (
        torch.randn(64, 2 * width, generator=g) / 8,
        torch.randn(2 * width, width, generator=g) / math.sqrt(2 * width),
    )
    g.manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=g)
    hidden = SIGNAL.get(classes, 0.4) * centres[labels] + torch.randn(count, 64, generator=g)
    hidden = F.relu(hidden @ first + 0.3 * torch.randn(count, 2 * width, generator=g))
    return LabeledFeatures(
        F.relu(1.5 * hidden @ second + 0.1 * torch.randn(count, width, generator=g)), None, labels
    )


def ours(
    train: LabeledFeatures, val: LabeledFeatures, test: LabeledFeatures, config: ProbeConfig
) -> tuple[float, float, int]:
    """Seconds, test accuracy, cells."""
    start = time.perf_counter()
    result = select_probe(train, val, config)
    seconds = time.perf_counter() - start
    return (
        seconds,
        accuracy(result.probe.predict(test.features), test.labels),
        len(result.candidates),
    )


def theirs(
    train: LabeledFeatures, val: LabeledFeatures, test: LabeledFeatures, grid: list[float]
) -> tuple[float, float, float]:
    """Seconds, test accuracy, the chosen C."""
    start = time.perf_counter()
    fitted = {c: _logistic(train.features, train.labels, c) for c in grid}
    scores = {c: _score(model, val) for c, model in fitted.items()}
    best = max(scores, key=scores.__getitem__)
    model = _logistic(
        torch.cat([train.features, val.features]), torch.cat([train.labels, val.labels]), best
    )
    return time.perf_counter() - start, _score(model, test), best


def _logistic(features, labels, c):
    inputs = fit_standardizer(features)
    return inputs, LogisticRegression(C=c, max_iter=1000).fit(
        inputs(features).numpy(), labels.numpy()
    )


def _score(fitted, data: LabeledFeatures) -> float:
    inputs, model = fitted
    return 100 * model.score(inputs(data.features).numpy(), data.labels.numpy())


def main() -> None:
    """Measure each number of classes in turn and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 200])
    parser.add_argument(
        "--cells",
        type=int,
        default=20,
        help="values of C for scikit-learn; beamclip's grid is its default of 20 cells",
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    config = ProbeConfig()
    low, high = min(config.grid.weight_decay), max(config.grid.weight_decay)
    grid = [1 / (decay * options.images) for decay in np.geomspace(high, low, options.cells)]
    print(
        f"{'classes':>7} {'cells':>5} {'beamclip s':>10} {'top-1':>6} {'C':>3} {'sklearn s':>9} {'top-1':>6} {'chosen C':>9}  ratio"
    )
    for classes in options.classes:
        parts = [
            made_up(count, options.width, classes, seed)
            for seed, count in enumerate((options.images, 2000, 5000))
        ]
        ours(*parts, config)  # warm up
        with threadpool_limits(options.threads):
            seconds, top1, cells = ours(*parts, config)
            reference, expected, c = theirs(*parts, grid)
        print(
            f"{classes:7} {cells:5} {seconds:10.2f} {top1:6.2f} {len(grid):3} {reference:9.2f} {expected:6.2f} {c:9.2g}"
            f"  {reference / seconds:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

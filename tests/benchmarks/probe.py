"""Compare the grid of linear probes with scikit-learn's LogisticRegression, in time and accuracy.

    python tests/benchmarks/probe.py [--images 10000] [--width 512] [--classes 10 200] \
        [--cells 20] [--threads 2]

Features are synthetic. Each class is a point in 64 dimensions with noise around it, passed through
two random layers with ReLU. So features are correlated and non-negative, as those of a ResNet are,
and the classes overlap.

beamclip does what the evaluation of a run does: it fits all settings of its grid on train, chooses
one on val, and fits that one again on train and val. scikit-learn fits as many values of C, one
after the other, over the same range as the weight decays, on standardized features in fp32, with
its default tolerance and at most 1,000 iterations. Its best C on val is also fitted again on train
and val. Both use the same number of threads, in turn. No time is extrapolated.
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
    """Return synthetic features; classes and layers are the same for every seed."""
    g = torch.Generator().manual_seed(7)
    groups = max(2, classes // 5)
    group_centers = torch.randn(groups, 64, generator=g)[torch.arange(classes) % groups]
    centers = group_centers + 0.7 * torch.randn(classes, 64, generator=g)
    first = torch.randn(64, 2 * width, generator=g) / 8
    second = torch.randn(2 * width, width, generator=g) / math.sqrt(2 * width)
    g.manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=g)
    hidden = SIGNAL.get(classes, 0.4) * centers[labels] + torch.randn(count, 64, generator=g)
    hidden = F.relu(hidden @ first + 0.3 * torch.randn(count, 2 * width, generator=g))
    features = F.relu(1.5 * hidden @ second + 0.1 * torch.randn(count, width, generator=g))
    return LabeledFeatures(features, None, labels)


def fit_beamclip(
    train: LabeledFeatures, val: LabeledFeatures, test: LabeledFeatures, config: ProbeConfig
) -> tuple[float, float, int]:
    """Fit beamclip's grid; return seconds, test accuracy and the number of settings."""
    start = time.perf_counter()
    result = select_probe(train, val, config)
    seconds = time.perf_counter() - start
    top1 = accuracy(result.probe.predict(test.features), test.labels)
    return seconds, top1, len(result.candidates)


def fit_sklearn(
    train: LabeledFeatures, val: LabeledFeatures, test: LabeledFeatures, grid: list[float]
) -> tuple[float, float, float]:
    """Fit scikit-learn's grid; return seconds, test accuracy and the chosen C."""
    start = time.perf_counter()
    models = {c: _fit_logistic(train.features, train.labels, c) for c in grid}
    scores = {c: _score(model, val) for c, model in models.items()}
    best = max(scores, key=scores.__getitem__)
    features = torch.cat([train.features, val.features])
    labels = torch.cat([train.labels, val.labels])
    model = _fit_logistic(features, labels, best)
    return time.perf_counter() - start, _score(model, test), best


def _fit_logistic(features, labels, c):
    standardize = fit_standardizer(features)
    regression = LogisticRegression(C=c, max_iter=1000)
    return standardize, regression.fit(standardize(features).numpy(), labels.numpy())


def _score(model, data: LabeledFeatures) -> float:
    standardize, regression = model
    return 100 * regression.score(standardize(data.features).numpy(), data.labels.numpy())


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
        help="values of C for scikit-learn; beamclip's default grid has 20 settings",
    )
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    config = ProbeConfig()
    low, high = min(config.grid.weight_decay), max(config.grid.weight_decay)
    grid = [1 / (decay * options.images) for decay in np.geomspace(high, low, options.cells)]
    print(
        f"{'classes':>7} {'cells':>5} {'beamclip s':>10} {'top-1':>6} {'C':>3} "
        f"{'sklearn s':>9} {'top-1':>6} {'chosen C':>9}  ratio"
    )
    for classes in options.classes:
        parts = [
            made_up(count, options.width, classes, seed)
            for seed, count in enumerate((options.images, 2000, 5000))
        ]
        # The first call warms up.
        fit_beamclip(*parts, config)
        with threadpool_limits(options.threads):
            seconds, top1, cells = fit_beamclip(*parts, config)
            sklearn_seconds, sklearn_top1, c = fit_sklearn(*parts, grid)
        print(
            f"{classes:7} {cells:5} {seconds:10.2f} {top1:6.2f} {len(grid):3} "
            f"{sklearn_seconds:9.2f} {sklearn_top1:6.2f} {c:9.2g}"
            f"  {sklearn_seconds / seconds:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

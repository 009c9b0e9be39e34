"""What image semantic balance costs: the forest of made-up clustered vectors, compared pair by pair and by an index.

    python tests/benchmarks/balance.py [--images 50000] [--width 512] [--classes 100] [--spread 0.75]

Vectors are a class's direction and noise of `--spread` times its length, which puts the nearest neighbours where CLIPs put them.
"""

import argparse
import time

import numpy as np
import torch

from beamclip.balance.neighbors import normalize_rows
from beamclip.balance.spanning_forest import (
    exact_forest,
    indexed_forest,
    nearest_to_center,
    cut_forest,
    threshold_for_share,
)


def main() -> None:
    """Print seconds and what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, kind, default in (
        ("images", int, 50_000),
        ("width", int, 512),
        ("classes", int, 100),
        ("spread", float, 0.75),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    centres = random.normal(size=(options.classes, options.width))
    noise = random.normal(size=(options.images, options.width)) * random.uniform(
        0.2, 1, (options.images, 1)
    )
    vectors = normalize_rows(
        centres[random.integers(0, options.classes, options.images)] + options.spread * noise
    )
    print(f"{options.images:,} x {options.width}, {torch.get_num_threads()} threads")
    for name, find in (("exact", exact_forest), ("index", lambda rows: indexed_forest(rows, 32))):
        start = time.perf_counter()
        forest = find(vectors)
        seconds = time.perf_counter() - start
        threshold = threshold_for_share(forest, 0.437)
        sets = cut_forest(forest, threshold)
        kept = nearest_to_center(vectors, sets)
        rest = time.perf_counter() - start - seconds
        largest = np.bincount(sets).max()
        found = f"43.7 %: threshold {threshold:.4f}, {len(kept):,} kept, largest set {largest:,}"
        print(
            f"{name}: forest {seconds:.1f} s, cutting it {rest:.1f} s; {found}; {forest.facts}",
            flush=True,
        )


if __name__ == "__main__":
    main()

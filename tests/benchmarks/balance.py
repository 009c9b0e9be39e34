"""Measure the time of image semantic balance on synthetic clustered vectors.

    python tests/benchmarks/balance.py [--images 50000] [--width 512] [--classes 100] \\
        [--spread 0.75]

The spanning forest is built twice: from all pairs, and from the nearest neighbors of an index.
Each vector is the direction of its class plus noise of `--spread` times its length.
With the default, neighbors are about as near as in the embeddings of CLIP models.
"""

import argparse
import time

import numpy as np
import torch

from beamclip.balance.neighbors import normalize_rows
from beamclip.balance.spanning_forest import (
    cut_forest,
    exact_forest,
    indexed_forest,
    nearest_to_center,
    threshold_for_share,
)


def main() -> None:
    """Print the seconds and the resulting sets of each way."""
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
    centers = random.normal(size=(options.classes, options.width))
    noise = random.normal(size=(options.images, options.width)) * random.uniform(
        0.2, 1, (options.images, 1)
    )
    vectors = normalize_rows(
        centers[random.integers(0, options.classes, options.images)] + options.spread * noise
    )
    print(f"{options.images:,} x {options.width}, {torch.get_num_threads()} threads")
    ways = {"exact": exact_forest, "index": lambda rows: indexed_forest(rows, 32)}
    for name, build_forest in ways.items():
        start = time.perf_counter()
        forest = build_forest(vectors)
        seconds = time.perf_counter() - start
        threshold = threshold_for_share(forest, 0.437)
        sets = cut_forest(forest, threshold)
        kept = nearest_to_center(vectors, sets)
        rest = time.perf_counter() - start - seconds
        largest = np.bincount(sets).max()
        result = f"43.7 %: threshold {threshold:.4f}, {len(kept):,} kept, largest set {largest:,}"
        print(
            f"{name}: forest {seconds:.1f} s, cutting it {rest:.1f} s; {result}; {forest.facts}",
            flush=True,
        )


if __name__ == "__main__":
    main()

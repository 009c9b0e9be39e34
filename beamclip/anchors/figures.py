"""Plot anchor sets. Needs only NumPy and matplotlib's figures: no torch, pyplot or display."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Class names stay legible along an edge up to this number.
_MAX_NAMED_CLASSES = 100
# A screen can't show more rows than this.
_MAX_CELLS = 1000


def heat_map(anchors: NDArray[np.float32], names: Sequence[str], title: str) -> Figure:
    """Draw the cosines of all pairs of anchors.

    Above a hundred classes the names are left out; above a thousand, each cell is the mean over
    neighboring classes.

    Args:
        anchors: [K, D], unit length.
        names: the K class names.
        title: shown above the plot.
    """
    side = min(14.0, 4.0 + 0.12 * len(names))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    rows = average_neighboring_rows(anchors, _MAX_CELLS)
    # Ticks count classes, even if a cell stands for several of them.
    extent = (-0.5, len(names) - 0.5, len(names) - 0.5, -0.5)
    image = axes.imshow(
        rows @ rows.T, cmap="viridis", vmax=1.0, interpolation="nearest", extent=extent
    )
    figure.colorbar(image, ax=axes, label="cosine", shrink=0.8)
    if len(names) <= _MAX_NAMED_CLASSES:
        size = 9 if len(names) <= 30 else 5
        # parse_math: a class name may contain "$", which would start a formula.
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(range(len(names)), names, fontsize=size, parse_math=False)
    axes.set_title(title)
    return figure


def average_neighboring_rows(rows: NDArray[np.float32], max_rows: int) -> NDArray[Any]:
    """Average neighboring rows, [K, D] -> [min(K, max_rows), D].

    Products of such means are the means of the products, so a heat map of them averages cosines.
    """
    count = min(max_rows, len(rows))
    starts = np.linspace(0, len(rows), count, endpoint=False).astype(np.int64)
    group_sizes = np.diff([*starts.tolist(), len(rows)])
    return np.asarray(np.add.reduceat(rows, starts, axis=0) / group_sizes[:, None])

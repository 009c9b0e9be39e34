"""Pictures of a bank of anchors. NumPy and matplotlib's figure objects only: no torch, no pyplot, no display."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_NAMED = 100  # classes that can be named along an edge
_CELLS = 1000  # rows a screen can show


def heat_map(anchors: NDArray[np.float32], names: Sequence[str], title: str) -> Figure:
    """Cosines of all pairs. Above a hundred classes the names are left out; above a thousand, a cell is the mean over neighbours.

    Args:
        anchors: [K, D], unit length.
    """
    side = min(14.0, 4.0 + 0.12 * len(names))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    rows = neighbours_averaged(anchors, _CELLS)
    extent = (-0.5, len(names) - 0.5, len(names) - 0.5, -0.5)
    picture = axes.imshow(
        rows @ rows.T, cmap="viridis", vmax=1.0, interpolation="nearest", extent=extent
    )
    figure.colorbar(picture, ax=axes, label="cosine", shrink=0.8)
    if len(names) <= _NAMED:
        size = 9 if len(names) <= 30 else 5
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(range(len(names)), names, fontsize=size, parse_math=False)
    axes.set_title(title)
    return figure


def neighbours_averaged(rows: NDArray[np.float32], most: int) -> NDArray[Any]:
    """At most `most` rows, each the mean of neighbouring ones: products of means are means of products. [K, D] -> [≤ most, D]."""
    starts = np.linspace(0, len(rows), min(most, len(rows)), endpoint=False).astype(np.int64)
    counts = np.diff([*starts.tolist(), len(rows)])
    return np.asarray(np.add.reduceat(rows, starts, axis=0) / counts[:, None])

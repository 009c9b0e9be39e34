"""Pictures of a bank of anchors. Matplotlib's figure objects only: no pyplot, so no global state and no display."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor


def heat_map(anchors: Tensor, names: Sequence[str], title: str) -> Figure:
    """Cosines of all pairs as a matplotlib figure. Above a hundred classes the names are left out."""
    count = len(names)
    side = min(14.0, 4.0 + 0.12 * count)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    cosines = (anchors @ anchors.T).numpy()
    picture = axes.imshow(cosines, cmap="viridis", vmax=1.0, interpolation="nearest")
    figure.colorbar(picture, ax=axes, label="cosine", shrink=0.8)
    if count <= 100:
        size = 9 if count <= 30 else 5
        axes.set_xticks(range(count), names, rotation=90, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
    axes.set_title(title)
    return figure

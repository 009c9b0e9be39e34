"""Save figures, and draw what several of them share.

The plot modules use matplotlib's figure objects only. Without pyplot there is no global state and
no display is needed.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from beamclip.reporting.groups import RunRow


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure to a file whose format follows its suffix, making the folder if needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def draw_reference(axes: Axes, row: RunRow, metric: str, linestyle: str, note: str = "") -> None:
    """Draw a reference run's metric as a level gray line.

    Args:
        axes: where to draw.
        row: the reference run; it has `metric`.
        metric: its height.
        linestyle: as matplotlib writes it.
        note: appended to the run's name in the legend.
    """
    axes.axhline(
        row.metrics[metric], color="gray", linestyle=linestyle, label=f"{row.method}{note}"
    )

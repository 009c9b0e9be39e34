"""Save figures and draw reference lines, for all plot modules.

The plot modules use matplotlib's `Figure` directly. pyplot keeps every figure in a global state and
may need a display.
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
    """Draw a reference run's metric as a horizontal gray line.

    Args:
        axes: the panel to draw in.
        row: a reference run that has `metric`.
        metric: MLflow key of the metric.
        linestyle: matplotlib line style, such as ":".
        note: appended to the method's name in the legend.
    """
    axes.axhline(
        row.metrics[metric], color="gray", linestyle=linestyle, label=f"{row.method}{note}"
    )

import subprocess
import sys

import numpy as np
import pytest

from beamclip.anchors.figures import average_neighboring_rows, heat_map


def anchors(count, width=8):
    rows = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def plotted(figure):
    """The cosines, the class names along the side, and the title."""
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    return np.asarray(axes.images[0].get_array()), names, axes.get_title()


@pytest.mark.parametrize("count", [2, 10, pytest.param(100, marks=pytest.mark.slow)])
def test_every_class_is_named_and_every_cosine_is_plotted(count, tmp_path):
    rows, names = anchors(count), [f"class {number}" for number in range(count)]
    figure = heat_map(rows, names, "stub, plain")
    cosines, labels, title = plotted(figure)
    np.testing.assert_allclose(cosines, rows @ rows.T, atol=1e-6)
    assert (labels, title) == (names, "stub, plain")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == names
    figure.savefig(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_many_classes_are_not_named_and_the_figure_does_not_grow(tmp_path):
    rows, names = anchors(300), [f"class {number}" for number in range(300)]
    figure = heat_map(rows, names, "stub, plain")
    cosines, labels, _ = plotted(figure)
    np.testing.assert_allclose(cosines, rows @ rows.T, atol=1e-6)
    assert not set(labels) & set(names) and max(figure.get_size_inches()) <= 15
    figure.savefig(tmp_path / "map.png")


def test_thousands_of_classes_are_averaged_over_neighbors():
    rows = anchors(2500)
    figure = heat_map(rows, [""] * 2500, "many")
    cosines, _, _ = plotted(figure)
    assert cosines.shape == (1000, 1000)
    assert cosines[0, 0] == pytest.approx((rows[:2] @ rows[:2].T).mean(), abs=1e-5)
    assert figure.axes[0].images[0].get_extent() == [
        -0.5,
        2499.5,
        2499.5,
        -0.5,
    ]  # classes are still counted along the edges


def test_neighbors_are_averaged_in_groups_of_almost_equal_size():
    rows = np.arange(7, dtype=np.float32)[:, None]
    assert (
        average_neighboring_rows(rows, 7).tolist() == rows.tolist()
        and average_neighboring_rows(rows, 99).tolist() == rows.tolist()
    )
    assert average_neighboring_rows(rows, 3)[:, 0].tolist() == [0.5, 2.5, 5.0]
    assert average_neighboring_rows(rows, 1).tolist() == [[3.0]]


@pytest.mark.slow
def test_it_needs_no_torch_and_no_display():
    code = """
import sys, beamclip.anchors.figures
sys.exit("torch" in sys.modules or "matplotlib.pyplot" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

from dataclasses import replace

import pytest

from beamclip.reporting.comparison import Comparison
from beamclip.reporting.cost_plot import COSTS, cost_plot, cost_points, pareto_front
from beamclip.reporting.groups import RunRow

VAL, SECONDS, IMAGES = "linear_probe/val_top1", *COSTS
BLANK = RunRow("id", "name", "trial", "csm", "FINISHED", {}, {}, {}, 1.0)


def comparison(*rows):
    """Trials from tuples (name, device-seconds, images seen, val accuracy)."""
    metrics = [
        {VAL: val}
        | {key: cost for key, cost in zip(COSTS, costs_section, strict=True) if cost is not None}
        for _, *costs_section, val in rows
    ]
    trials = [
        replace(BLANK, name=row[0], settings={"a": row[0]}, metrics=found)
        for row, found in zip(rows, metrics, strict=True)
    ]
    untrained = replace(BLANK, kind="reference", method="untrained", metrics={VAL: 20.0})
    return Comparison("e", "s", "q", "FINISHED", VAL, ("a",), tuple(trials), (untrained,), ())


SPREAD = [
    ("cheap", 10, 100, 40.0),
    ("fair", 100, 1000, 60.0),
    ("dear", 1000, 5000, 70.0),
    ("waste", 500, 2000, 50.0),
    ("same", 100, 900, 55.0),
]


def test_the_front_has_the_points_that_no_cheaper_one_beats():
    front = pareto_front(cost_points(comparison(*SPREAD), SECONDS))
    assert [(point.group.name, point.cost, point.result) for point in front] == [
        ("cheap", 10, 40.0),
        ("fair", 100, 60.0),
        ("dear", 1000, 70.0),
    ]
    assert [
        point.group.name
        for point in pareto_front(
            cost_points(comparison(("x", 5, 1, 40.0), ("y", 9, 1, 40.0)), SECONDS)
        )
    ] == ["x"]
    assert pareto_front([]) == []


def test_seeds_are_averaged_into_one_point():
    one, two = comparison(("a", 10, 1, 40.0), ("a", 30, 1, 44.0)).trials
    rows = (
        replace(one, settings={"a": "x", "seed": "0"}),
        replace(two, settings={"a": "x", "seed": "1"}),
    )
    (point,) = cost_points(replace(comparison(), trials=rows), SECONDS)
    assert (point.cost, point.result) == (20.0, 42.0)
    assert point.half_interval == pytest.approx(12.706 * 2, rel=1e-3)


def test_both_costs_have_a_log_scale_and_the_front_has_names(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig",
        lambda figure, path, **_: figures.append(figure) or path.write_bytes(b""),
    )
    assert (
        cost_plot(comparison(*SPREAD), tmp_path / "deep" / "cost.png")
        == tmp_path / "deep" / "cost.png"
    )
    (figure,) = figures
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "log"]
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "device-seconds (log)",
        "images seen (log)",
    ]
    assert [text.get_text() for text in figure.axes[0].texts] == ["a", "b", "c"]
    assert [text.get_text() for text in figure.axes[1].texts] == ["a", "d", "b", "c"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["Pareto front", "untrained", "a: cheap", "b: fair", "c: dear", "d: same"]


def test_a_picture_is_written(tmp_path):
    path = cost_plot(comparison(*SPREAD), tmp_path / "cost.png")
    assert path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 5000


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [("only", 1, 1, 40.0)],
        [("x", None, None, 40.0), ("y", None, None, 41.0)],
        [("x", 10, 10, 40.0), ("y", 10, 10, 41.0)],
    ],
)
def test_equal_costs_give_no_plot(tmp_path, rows):
    assert cost_plot(comparison(*rows), tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()

import numpy as np

from beamclip.balance.report import report_of


def test_a_report_worked_out_by_hand(on_a_circle):
    vectors = on_a_circle(0, 10, 20, 90, 180)
    report = report_of(
        vectors,
        np.array([7, 8, 9, 20, 30]),
        np.array([0, 0, 0, 1, 2]),
        np.array([1, 3, 4]),
        np.array([0, 0, 1, 1, 1]),
        ["a", "b", "c"],
    )
    assert {name: report[name] for name in ("images", "kept", "removed", "removed_share", "sets", "sets_of_several", "sizes")} == {
        "images": 5, "kept": 3, "removed": 2, "removed_share": 0.4, "sets": 3, "sets_of_several": 1, "sizes": [3, 1, 1],
    }  # fmt: skip
    assert report["largest"]["farthest"] == [7, 9] and round(
        report["largest"]["distance"], 4
    ) == round(1 - np.cos(np.deg2rad(20)), 4)
    assert [(one["name"], one["images"], one["removed"]) for one in report["classes"]] == [
        ("a", 2, 1),
        ("b", 3, 1),
    ]

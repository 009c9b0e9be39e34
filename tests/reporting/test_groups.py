from dataclasses import replace
from statistics import stdev

import pytest

from beamclip.reporting.groups import RunRow, choose_best_group, group_trials, half_interval

VAL = "linear_probe/val_top1"
BLANK = RunRow("id", "name", "trial", "csm", "FINISHED", {}, {}, {}, 1.0)


def trial(val, status="FINISHED", **values):
    return replace(
        BLANK,
        status=status,
        settings={key: str(value) for key, value in values.items()},
        metrics={VAL: val},
    )


def test_trials_that_differ_only_in_the_seed_are_one_group():
    rows = [trial(40.0 + 2 * a + seed, a=a, seed=seed) for seed in (10, 9) for a in (0, 1)]
    first, second = group_trials(rows, VAL)
    assert (first.settings, second.settings) == ({"a": "1"}, {"a": "0"})
    assert [row.settings["seed"] for row in first.rows] == ["9", "10"]
    assert first.metric_values(VAL) == (51.0, 52.0)
    assert (first.mean(VAL), first.name) == (51.5, "a=1")


def test_without_a_seed_equal_trials_are_not_grouped():
    groups = group_trials([trial(40.0, a=1), trial(41.0, a=1)], VAL)
    assert [group.mean(VAL) for group in groups] == [41.0, 40.0]
    assert groups[0].half_interval(VAL) is None
    assert groups[0].name == "name"


def test_the_interval_uses_student_s_t():
    """From tables: t(0.975) is 12.706 with one degree of freedom and 4.303 with two."""
    assert half_interval((40.0, 42.0)) == pytest.approx(12.706 * stdev((40, 42)) / 2**0.5, rel=1e-4)
    assert half_interval((40.0, 42.0, 47.0)) == pytest.approx(
        4.303 * stdev((40, 42, 47)) / 3**0.5, rel=1e-4
    )


def test_failed_seeds_do_not_count_and_complete_groups_rank_before_incomplete_ones():
    rows = [
        trial(99.0, "FAILED", a=0, seed=0),
        trial(60.0, a=0, seed=1),
        trial(50.0, a=1, seed=0),
        trial(52.0, a=1, seed=1),
    ]
    groups = group_trials(rows, VAL)
    assert [(group.settings["a"], group.mean(VAL)) for group in groups] == [
        ("0", 60.0),
        ("1", 51.0),
    ]
    assert choose_best_group(groups, VAL).settings == {"a": "1"}
    assert choose_best_group(groups[:1], VAL).settings == {"a": "0"}
    assert choose_best_group(group_trials([trial(9.0, "FAILED", a=0, seed=0)], VAL), VAL) is None

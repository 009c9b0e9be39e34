import math
import random
from dataclasses import replace

import pytest
import torch
from scipy.stats import t as student

from beamclip.evaluation.bootstrap import intervals
from beamclip.reporting.comparison import Comparison
from beamclip.reporting.groups import Row
from beamclip.reporting.significance import TEST, holm, over_seeds, p_over_images, verdicts, welch

VAL = "linear_probe/val_top1"
BLANK = Row("id", "name", "trial", "csm", "FINISHED", {}, {}, {}, 1.0)


def wilson(right, count):
    z, p = 1.959964, right / count
    centre, half = (
        p + z * z / (2 * count),
        z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)),
    )
    return [
        100 * value
        for value in (
            p,
            (centre - half) / (1 + z * z / count),
            (centre + half) / (1 + z * z / count),
        )
    ]


def comparison(rows):
    return Comparison("e", "s", "q", "FINISHED", VAL, ("a", "seed"), tuple(rows), (), ())


def seeded(**results):
    """`seeded(x=[40, 41])`: a cell of this name with these test accuracies, one a seed; val is the same."""
    cells = [
        (name, seed, result) for name, found in results.items() for seed, result in enumerate(found)
    ]
    return comparison(
        [
            replace(BLANK, values={"a": n, "seed": str(s)}, metrics={VAL: r, TEST: r})
            for n, s, r in cells
        ]
    )


def said(made):
    return {
        cell.values["a"]: verdict for cell, verdict in zip(made.cells, verdicts(made), strict=True)
    }


def test_large_differences_are_told_apart_from_small_ones_over_seeds():
    made = seeded(best=[70.0, 71.0, 70.5], near=[69.0, 71.2, 70.1], far=[60.0, 61.0, 60.4])
    assert said(made) == {"best": None, "near": "not told apart", "far": "worse"}
    assert over_seeds(made)


def test_the_best_on_val_may_be_the_worse_on_test():
    rows = [
        replace(row, metrics={VAL: 100 - row.metrics[TEST], TEST: row.metrics[TEST]})
        for row in seeded(x=[40, 41], y=[80, 81]).trials
    ]
    assert said(comparison(rows)) == {"x": None, "y": "better"}


def test_welch_is_what_the_formula_says():
    """Means 2 and 6, variances 1 and 4, three each: t is 4/√(5/3), with 25/17·2 degrees of freedom."""
    assert welch([1.0, 2.0, 3.0], [4.0, 6.0, 8.0]) == pytest.approx(
        2 * student.sf(4 / (5 / 3) ** 0.5, 50 / 17)
    )
    assert welch([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == pytest.approx(1.0)


def test_runs_that_never_scatter_say_nothing_of_noise():
    assert welch([40.0, 40.0], [45.0, 45.0]) == 1.0
    assert welch([40.0, 40.0], [45.0, 45.1]) < 0.05


def test_holm_corrects_step_by_step_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_over_images_the_p_value_falls_at_newcombes_own_limit():
    """Newcombe's table II, case (a): 56/70 against 48/80 has a difference of 0.2 with the interval 0.0524 to 0.3339."""
    one, other = wilson(56, 70), wilson(48, 80)
    error = 20 - 5.24
    assert p_over_images(one, other) == pytest.approx(
        math.erfc(20 / (error / 1.959964) / math.sqrt(2)), abs=1e-3
    )
    assert p_over_images(other, one) == p_over_images(one, other)
    assert p_over_images(one, one) == 1.0


def test_over_images_chance_is_called_a_difference_no_more_often_than_it_should_be():
    dice = random.Random(0)
    draw = lambda: wilson(sum(dice.random() < 0.7 for _ in range(200)), 200)  # noqa: E731
    found = sum(p_over_images(draw(), draw()) < 0.05 for _ in range(500))
    assert 5 <= found <= 45  # 25 expected


@pytest.mark.parametrize(("chance", "images"), [(0.99, 100), (0.995, 500), (0.7, 200)])
def test_nor_near_100_per_cent_with_the_intervals_that_are_logged(chance, images):
    g = torch.Generator().manual_seed(0)

    def draw():
        hits = torch.rand(images, generator=g) < chance
        (interval,), _ = intervals([hits], torch.full((images,), 0.5), 200, 0)
        return [100 * hits.double().mean().item(), *interval]

    assert sum(p_over_images(draw(), draw()) < 0.05 for _ in range(150)) <= 15  # 7.5 expected


def test_with_one_seed_images_decide_and_one_beside_several_is_left_open():
    def single(name, right):
        value, low, high = wilson(right, 1000)
        return replace(
            BLANK,
            values={"a": name},
            metrics={VAL: value, TEST: value, f"{TEST}_low": low, f"{TEST}_high": high},
        )

    made = comparison([single("best", 700), single("near", 690), single("far", 600)])
    assert said(made) == {"best": None, "near": "not told apart", "far": "worse"}
    assert not over_seeds(made)
    mixed = comparison([*seeded(best=[70.0, 71.0]).trials, single("one", 100)])
    assert said(mixed) == {"best": None, "one": None}


def test_nothing_is_said_of_what_failed_or_was_not_measured():
    failed = [replace(row, status="FAILED") for row in seeded(bad=[10.0, 11.0]).trials]
    assert said(comparison([*seeded(best=[70.0, 71.0]).trials, *failed])) == {
        "best": None,
        "bad": None,
    }
    assert verdicts(comparison(failed)) == (None,)
    assert verdicts(comparison([])) == ()

import math
import random
from dataclasses import replace

import pytest
import torch
from scipy.stats import t as student

from beamclip.evaluation.bootstrap import bootstrap_intervals
from beamclip.reporting.comparison import TEST_METRIC as TEST
from beamclip.reporting.comparison import VAL_METRIC as VAL
from beamclip.reporting.comparison import Comparison
from beamclip.reporting.groups import RunRow
from beamclip.reporting.significance import (
    compare_with_best,
    compared_over_seeds,
    holm_correction,
    image_p_value,
    welch_p_value,
)

BLANK = RunRow("id", "name", "trial", "csm", "FINISHED", {}, {}, {}, 1.0)


def wilson(right, count):
    """Accuracy and both ends of Wilson's 95 % interval, in percent."""
    z = 1.959964
    p = right / count
    center = p + z * z / (2 * count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return [100 * p, 100 * (center - half) / scale, 100 * (center + half) / scale]


def comparison(rows):
    return Comparison("e", "s", "q", "FINISHED", VAL, ("a", "seed"), tuple(rows), (), ())


def seeded(**accuracies):
    """`seeded(x=[40, 41])`: a group x with one test accuracy per seed; val is the same."""
    rows = []
    for name, of_seeds in accuracies.items():
        for seed, accuracy in enumerate(of_seeds):
            settings = {"a": name, "seed": str(seed)}
            rows.append(replace(BLANK, settings=settings, metrics={VAL: accuracy, TEST: accuracy}))
    return comparison(rows)


def verdicts(sweep):
    """Verdict of each group by its name."""
    pairs = zip(sweep.groups, compare_with_best(sweep), strict=True)
    return {group.settings["a"]: verdict for group, verdict in pairs}


def test_large_differences_are_significant_over_seeds_and_small_ones_are_not():
    sweep = seeded(best=[70.0, 71.0, 70.5], near=[69.0, 71.2, 70.1], far=[60.0, 61.0, 60.4])
    assert verdicts(sweep) == {"best": None, "near": "no significant difference", "far": "worse"}
    assert compared_over_seeds(sweep)


def test_the_best_on_val_may_be_worse_on_test():
    rows = [
        replace(row, metrics={VAL: 100 - row.metrics[TEST], TEST: row.metrics[TEST]})
        for row in seeded(x=[40, 41], y=[80, 81]).trials
    ]
    assert verdicts(comparison(rows)) == {"x": None, "y": "better"}


def test_welch_equals_the_formula():
    """Means 2 and 6, variances 1 and 4, n = 3: t is 4/√(5/3) with 25/17·2 degrees of freedom."""
    assert welch_p_value([1.0, 2.0, 3.0], [4.0, 6.0, 8.0]) == pytest.approx(
        2 * student.sf(4 / (5 / 3) ** 0.5, 50 / 17)
    )
    assert welch_p_value([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == pytest.approx(1.0)


def test_without_any_spread_the_welch_test_finds_no_difference():
    assert welch_p_value([40.0, 40.0], [45.0, 45.0]) == 1.0
    assert welch_p_value([40.0, 40.0], [45.0, 45.1]) < 0.05


def test_holm_p_values_equal_the_definition_and_never_decrease():
    assert holm_correction([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_correction([0.9, 0.8]) == [1.0, 1.0]
    assert holm_correction([]) == []


def test_the_p_value_over_images_agrees_with_newcombe_s_interval():
    """Newcombe's table II, case (a): 56/70 and 48/80 differ by 0.2, interval 0.0524 to 0.3339."""
    one, other = wilson(56, 70), wilson(48, 80)
    error = 20 - 5.24
    assert image_p_value(one, other) == pytest.approx(
        math.erfc(20 / (error / 1.959964) / math.sqrt(2)), abs=1e-3
    )
    assert image_p_value(other, one) == image_p_value(one, other)
    assert image_p_value(one, one) == 1.0


def test_over_images_false_positives_are_no_more_frequent_than_the_level():
    dice = random.Random(0)
    draw = lambda: wilson(sum(dice.random() < 0.7 for _ in range(200)), 200)  # noqa: E731
    found = sum(image_p_value(draw(), draw()) < 0.05 for _ in range(500))
    assert 5 <= found <= 45  # 25 expected


@pytest.mark.slow
@pytest.mark.parametrize(("chance", "images"), [(0.99, 100), (0.995, 500), (0.7, 200)])
def test_false_positives_are_no_more_frequent_near_100_percent(chance, images):
    g = torch.Generator().manual_seed(0)

    def draw():
        hits = torch.rand(images, generator=g) < chance
        (interval,), _ = bootstrap_intervals([hits], torch.full((images,), 0.5), 200, 0)
        return [100 * hits.double().mean().item(), *interval]

    assert sum(image_p_value(draw(), draw()) < 0.05 for _ in range(150)) <= 15  # 7.5 expected


def test_with_one_seed_each_images_decide_and_one_seed_against_several_is_undecided():
    def single(name, right):
        value, low, high = wilson(right, 1000)
        return replace(
            BLANK,
            settings={"a": name},
            metrics={VAL: value, TEST: value, f"{TEST}_low": low, f"{TEST}_high": high},
        )

    sweep = comparison([single("best", 700), single("near", 690), single("far", 600)])
    assert verdicts(sweep) == {"best": None, "near": "no significant difference", "far": "worse"}
    assert not compared_over_seeds(sweep)
    mixed = comparison([*seeded(best=[70.0, 71.0]).trials, single("one", 100)])
    assert verdicts(mixed) == {"best": None, "one": None}


def test_failed_and_unmeasured_groups_get_no_verdict():
    failed = [replace(row, status="FAILED") for row in seeded(bad=[10.0, 11.0]).trials]
    assert verdicts(comparison([*seeded(best=[70.0, 71.0]).trials, *failed])) == {
        "best": None,
        "bad": None,
    }
    assert compare_with_best(comparison(failed)) == (None,)
    assert compare_with_best(comparison([])) == ()

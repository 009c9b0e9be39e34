import itertools
import math
from dataclasses import replace
from statistics import fmean

import pytest

from beamclip.config import Sweep, choice, loguniform
from beamclip.reporting.comparison import Comparison, compare
from beamclip.reporting.groups import RunRow
from beamclip.reporting.importance import (
    effects_summary,
    effects_table,
    setting_effect,
    setting_effects,
)
from beamclip.tracking import SweepTracker

VAL = "linear_probe/val_top1"
BLANK = RunRow("id", "name", "trial", "csm", "FINISHED", {}, {}, {}, 1.0)


def trial(result, status="FINISHED", **values):
    return replace(
        BLANK,
        status=status,
        settings={key: str(value) for key, value in values.items()},
        metrics={VAL: result},
    )


def comparison(rows, *varied, ranges=()):
    return Comparison(
        "e", "s", "q", "FINISHED", VAL, varied, tuple(rows), (), (), frozenset(ranges)
    )


def grid(result, **space):
    cells = [dict(zip(space, cell, strict=True)) for cell in itertools.product(*space.values())]
    return comparison([trial(result(**cell), **cell) for cell in cells], *space)


def shares(found):
    return {effect.setting: effect.eta_squared for effect in found}


def test_shares_of_additive_effects_are_proportional_to_their_variances():
    found = setting_effects(grid(lambda a, b: 40 + 10 * a + 3 * b, a=[0, 1, 2], b=[0, 1]))
    of_a, of_b = 100 * 2 / 3, 9 / 4  # variances of 10a and 3b
    assert [effect.setting for effect in found] == ["a", "b"]
    assert shares(found) == pytest.approx({"a": of_a / (of_a + of_b), "b": of_b / (of_a + of_b)})


def test_a_setting_without_effect_explains_nothing_and_comes_last():
    found = setting_effects(grid(lambda idle, a: 40.0 + 0.1 * a, idle=["x", "y", "z"], a=[1, 2, 3]))
    assert shares(found) == pytest.approx({"a": 1.0, "idle": 0.0})
    assert found[-1].setting == "idle"


def test_settings_that_only_interact_explain_nothing_alone():
    found = setting_effects(grid(lambda a, b: 50.0 if a == b else 40.0, a=[0, 1], b=[0, 1]))
    assert shares(found) == pytest.approx({"a": 0.0, "b": 0.0})


def test_a_constant_metric_gives_no_effect():
    assert shares(setting_effects(grid(lambda a, b: 45.1, a=[0, 1], b=[0, 1]))) == {
        "a": 0.0,
        "b": 0.0,
    }


def test_a_single_trial_or_a_single_value_has_no_effect():
    assert setting_effect([], "a", VAL) is None
    assert setting_effect([trial(40.0, a=1)], "a", VAL) is None
    assert setting_effect([trial(40.0, a=1), trial(50.0, a=1)], "a", VAL) is None
    assert setting_effect([trial(40.0, b=1), trial(50.0, b=2)], "a", VAL) is None
    assert setting_effects(comparison([trial(40.0, a=1, b=2)], "a", "b")) == ()


def test_a_single_varied_setting_gets_no_effect():
    one = grid(lambda a: 40.0 + a, a=[1, 2, 3])
    assert setting_effects(one) == ()
    assert effects_summary(one) is None


def test_the_seed_is_not_a_setting_with_an_effect():
    found = setting_effects(
        grid(lambda a, b, seed: 40.0 + 10 * a + seed, a=[0, 1], b=[0, 1], seed=[0, 1])
    )
    assert [effect.setting for effect in found] == ["a", "b"]
    assert setting_effects(grid(lambda a, seed: 40.0 + a + seed, a=[0, 1], seed=[0, 1])) == ()


def test_failed_stopped_and_unmeasured_trials_are_left_out():
    good = grid(lambda a, b: 40.0 + a, a=[0, 10], b=[0, 1])
    bad = [
        trial(99.0, "FAILED", a=0, b=0),
        trial(98.0, "KILLED", a=0, b=1),
        trial(math.nan, a=10, b=0),
        trial(math.inf, a=10, b=1),
    ]
    bad.append(replace(trial(0.0, a=0, b=0), metrics={"zero_shot/val_top1": 90.0}))
    found = setting_effects(replace(good, trials=(*good.trials, *bad)))
    assert found == setting_effects(good)
    assert [effect.trials for effect in found] == [4, 4]


def test_numbers_are_sorted_by_value_and_names_by_their_means():
    results = {
        ("9", "plain"): 40.0,
        ("10", "plain"): 41.0,
        ("9", "cpa"): 45.0,
        ("10", "cpa"): 47.0,
        ("9", "bare"): 30.0,
        ("10", "bare"): 31.0,
    }
    found = setting_effects(
        grid(
            lambda number, prompts: results[number, prompts],
            number=["10", "9"],
            prompts=["plain", "cpa", "bare"],
        )
    )
    order = {effect.setting: [group.label for group in effect.groups] for effect in found}
    assert order == {"number": ["9", "10"], "prompts": ["bare", "plain", "cpa"]}
    assert [effect.numeric for effect in found] == [False, True]


@pytest.mark.parametrize(
    ("count", "parts", "share"),
    [
        (9, ["1e-09 to 1e-07", "1e-06 to 0.0001", "0.001 to 0.1"], 54 / 60),
        (8, ["1e-08 to 1e-05", "0.0001 to 0.1"], 32 / 42),
    ],
)
def test_a_range_is_cut_into_parts_with_equally_many_trials(count, parts, share):
    rows = [trial(float(rank), lr=10.0**-rank) for rank in range(1, count + 1)]
    effect = setting_effect(rows, "lr", VAL, from_range=True)
    assert [group.label for group in effect.groups] == parts
    assert effect.best.label == parts[0]
    assert effect.eta_squared == pytest.approx(share)


def test_the_best_part_of_a_range_may_be_its_middle():
    rows = [trial(-abs(x - 5.0), x=x) for x in range(1, 10)]
    effect = setting_effect(rows, "x", VAL, from_range=True)
    assert effect.best.label == "4 to 6"
    assert effect.eta_squared == pytest.approx(98 / 140)


def test_chance_is_the_mean_share_that_shuffled_results_explain():
    values, results = ["a", "a", "b", "b", "b"], [1.0, 2.0, 4.0, 8.0, 16.0]
    shuffled = [
        setting_effect(
            [trial(result, key=value) for value, result in zip(values, order, strict=True)],
            "key",
            VAL,
        )
        for order in itertools.permutations(results)
    ]
    assert (
        fmean(effect.eta_squared for effect in shuffled)
        == pytest.approx(shuffled[0].eta_squared_by_chance)
        == pytest.approx(1 / 4)
    )


def test_the_table_has_the_best_value_and_its_gain():
    rows = effects_table(
        setting_effects(grid(lambda a, b: 40 + 10 * a + 3 * b, a=[0, 1, 2], b=[0, 1]))
    )
    assert rows[0] == {
        "setting": "a",
        "eta_squared": 0.9674,
        "eta_squared_by_chance": 0.4,
        "best_value": "2",
        "mean_at_best": 61.5,
        "mean_at_worst": 41.5,
        "trials": 6,
    }


def test_the_summary_names_every_setting_and_the_share_by_chance(uri, finished):
    """The failed trial's 99 is left out: 40, 45 and 44 remain.

    Their total sum of squares is 14, of which 6 and 1.5 are between groups.
    """
    line = "share of the variance of linear_probe/val_top1 explained: "
    line += "student_temperature 43 % (by chance 50 %), teacher_temperature 11 % (by chance 50 %)"
    assert effects_summary(compare(uri, "temp")) == line
    assert effects_summary(grid(lambda a, b: 10.0 * a, a=[0, 1, 2], b=[0, 1])).endswith(
        " explained: a 100 %, b 0 % (by chance 20 %)"
    )


def test_the_ranges_of_a_sweep_are_read_from_its_run(uri, base):
    space = {"optimizer.lr": loguniform(1e-4, 1e-1), "seed": choice(1, 2)}
    sweep = Sweep(name="drawn", search="random", trials=2, space=space)
    SweepTracker.open(uri, None, sweep, base, "s1").close()
    read = compare(uri, "drawn")
    assert (read.varied, read.ranges) == (("optimizer.lr", "seed"), {"optimizer.lr"})

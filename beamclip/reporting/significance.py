"""Test which groups of trials differ significantly from the best one."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Literal

from beamclip.reporting.comparison import TEST_METRIC, Comparison
from beamclip.reporting.groups import TrialGroup

Verdict = Literal["worse", "no significant difference", "better"]
LEVEL = 0.05
"""Significance level after Holm's correction."""
_Z_95 = 1.959964  # half-width of a 95 % interval in standard errors, as in the logged intervals


def compare_with_best(comparison: Comparison) -> tuple[Verdict | None, ...]:
    """Compare the test accuracy of each group with that of the best one.

    With two seeds or more in both groups the test is Welch's t-test over seeds. The best group was
    chosen, so its mean is somewhat too high: see docs/comparing.md. With one seed in both the test
    is `image_p_value`. A group with one seed is not compared with one that has several. All
    p-values are corrected together after Holm, so that in 95 of 100 sweeps whose groups do not
    differ, none of them is called worse or better.

    Returns:
        A verdict for each of `comparison.groups`; None for the best and for groups that can't be
        compared.
    """
    best = comparison.best_group
    if best is None:
        return (None,) * len(comparison.groups)
    p_values: dict[int, float] = {}
    for index, group in enumerate(comparison.groups):
        p_value = None if group is best else _p_value(best, group)
        if p_value is not None:
            p_values[index] = p_value
    corrected = dict(zip(p_values, holm_correction(list(p_values.values())), strict=True))
    verdicts: list[Verdict | None] = []
    for index, group in enumerate(comparison.groups):
        verdicts.append(_verdict(best, group, corrected[index]) if index in corrected else None)
    return tuple(verdicts)


def compared_over_seeds(comparison: Comparison) -> bool:
    """Return True if groups are compared over seeds, False if over test images."""
    best = comparison.best_group
    return best is not None and len(best.metric_values(TEST_METRIC)) > 1


def _verdict(best: TrialGroup, group: TrialGroup, p_value: float) -> Verdict:
    if p_value > LEVEL:
        return "no significant difference"
    group_mean = group.mean(TEST_METRIC) or 0.0
    best_mean = best.mean(TEST_METRIC) or 0.0
    return "worse" if group_mean < best_mean else "better"


def _p_value(best: TrialGroup, group: TrialGroup) -> float | None:
    """Return the uncorrected p-value of a group against the best, or None if not comparable."""
    if not group.finished:
        return None
    best_values = best.metric_values(TEST_METRIC)
    group_values = group.metric_values(TEST_METRIC)
    if len(best_values) > 1 and len(group_values) > 1:
        return welch_p_value(best_values, group_values)
    if len(best_values) != len(group_values):
        return None
    best_metrics = best.finished[0].metrics
    group_metrics = group.finished[0].metrics
    keys = (TEST_METRIC, f"{TEST_METRIC}_low", f"{TEST_METRIC}_high")
    if not all(key in best_metrics and key in group_metrics for key in keys):
        return None
    return image_p_value([best_metrics[key] for key in keys], [group_metrics[key] for key in keys])


def welch_p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the p-value of Welch's t-test for equal means over seeds.

    Args:
        first: two or more accuracies, one a seed.
        second: likewise; its variance may differ.

    Returns:
        The two-sided p-value; 1 if neither sample varies at all. A handful of runs with the same
        accuracy to the last image does not show that there is no noise.
    """
    # scipy takes a second to import; commands that print no table should not wait for it.
    from scipy.stats import ttest_ind_from_stats

    if len(set(first)) == 1 and len(set(second)) == 1:
        return 1.0
    result = ttest_ind_from_stats(
        fmean(first),
        stdev(first),
        len(first),
        fmean(second),
        stdev(second),
        len(second),
        equal_var=False,
    )
    return float(result.pvalue)


def image_p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the p-value that two single runs are equally accurate, over test images.

    The interval of the difference is computed from both runs' intervals, as Newcombe does with
    Wilson's (Statistics in Medicine 17, 1998, method 10) and Zou and Donner with any (27, 2008), so
    that the number of images need not be known. Using it at other levels than 95 % is our
    approximation. Both runs saw the same images, and a paired test would find more differences, but
    which images each run got right is not logged as a metric. The test knows nothing of seeds: the
    same settings trained again may differ by more.

    Args:
        first: accuracy and both ends of its 95 % interval: (value, low, high), in per cent.
        second: likewise.

    Returns:
        The two-sided p-value.
    """
    higher, lower = sorted((first, second), key=lambda run: -run[0])
    difference = higher[0] - lower[0]
    if difference == 0:
        return 1.0
    standard_error = math.hypot(higher[0] - higher[1], lower[2] - lower[0]) / _Z_95
    if standard_error == 0:
        return 0.0
    return math.erfc(difference / standard_error / math.sqrt(2))


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Correct p-values by Holm's step-down method (1979), keeping their order.

    Written here because scipy has no Holm (`false_discovery_control` controls another error rate)
    and statsmodels would be a dependency for these five lines.
    """
    ascending = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    running_max = 0.0
    for rank, index in enumerate(ascending):
        scaled = (len(p_values) - rank) * p_values[index]
        running_max = max(running_max, min(1.0, scaled))
        corrected[index] = running_max
    return corrected

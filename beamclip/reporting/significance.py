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
# Half-width of a normal 95 % interval in standard errors.
_Z_95 = 1.959964


def compare_with_best(comparison: Comparison) -> tuple[Verdict | None, ...]:
    """Compare the test accuracy of each group with the best group's.

    If both groups have two or more seeds, the test is Welch's t-test over seeds. If both have one
    seed, it is `image_p_value`. A group with one seed is not compared with one that has several.

    The p-values of all groups are corrected together by Holm's method. So if no group of a sweep
    differs from the best, the chance that any is called worse or better is about 5 %. Over seeds it
    may be higher, because the best group was chosen and its mean is somewhat too high: see
    docs/comparing.md.

    Returns:
        A verdict for each of `comparison.groups`; None for the best group and for groups that can't
        be compared.
    """
    best = comparison.best_group
    if best is None:
        return (None,) * len(comparison.groups)

    # p-values by the index of the group.
    p_values: dict[int, float] = {}
    for index, group in enumerate(comparison.groups):
        if group is best:
            continue
        p_value = _p_value(best, group)
        if p_value is not None:
            p_values[index] = p_value
    corrected = holm_correction(list(p_values.values()))

    verdicts: list[Verdict | None] = [None] * len(comparison.groups)
    for index, p_value in zip(p_values, corrected, strict=True):
        verdicts[index] = _verdict(best, comparison.groups[index], p_value)
    return tuple(verdicts)


def compared_over_seeds(comparison: Comparison) -> bool:
    """Return True if groups are compared over seeds, False if over test images.

    It is also False if there is no best group.
    """
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

    # Several seeds each: over seeds.
    best_values = best.metric_values(TEST_METRIC)
    group_values = group.metric_values(TEST_METRIC)
    if len(best_values) > 1 and len(group_values) > 1:
        return welch_p_value(best_values, group_values)
    if len(best_values) != len(group_values):
        return None

    # One seed each: over test images, from the logged intervals.
    best_metrics = best.finished[0].metrics
    group_metrics = group.finished[0].metrics
    keys = (TEST_METRIC, f"{TEST_METRIC}_low", f"{TEST_METRIC}_high")
    if not all(key in best_metrics and key in group_metrics for key in keys):
        return None
    return image_p_value([best_metrics[key] for key in keys], [group_metrics[key] for key in keys])


def welch_p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the p-value of Welch's t-test for equal means over seeds.

    Args:
        first: two or more accuracies of one group, one for each seed.
        second: two or more accuracies of the other group; their variance may differ from the first.

    Returns:
        The two-sided p-value; 1 if neither sample varies at all.
    """
    # Importing scipy.stats takes a second. Commands that print no table should not wait for it.
    from scipy.stats import ttest_ind_from_stats

    # The test would divide by a variance of 0. A few runs with equal accuracies do not show that
    # there is no noise between seeds, so no difference is significant.
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
    """Return the p-value of equal accuracy of two single runs, tested over test images.

    The interval of the difference is computed from the intervals of both runs. Newcombe does so
    with Wilson's intervals (Statistics in Medicine 17, 1998, method 10), Zou and Donner with any
    (27, 2008). The number of images need not be known. They give 95 % intervals; deriving a p-value
    for other levels is our approximation.

    The test treats the runs as unpaired. Both saw the same images, so a paired test would find more
    differences, but MLflow's metrics do not say which images each run got right. The variation
    between seeds is not covered: the same settings trained again may differ by more.

    Args:
        first: accuracy and both ends of its 95 % interval, (value, low, high), in percent.
        second: the same numbers of the other run.

    Returns:
        The two-sided p-value.
    """
    higher, lower = sorted((first, second), key=lambda run: -run[0])
    difference = higher[0] - lower[0]
    if difference == 0:
        return 1.0
    # The intervals are asymmetric. The halves that face each other count: the lower half of the
    # higher accuracy's interval and the upper half of the lower accuracy's.
    standard_error = math.hypot(higher[0] - higher[1], lower[2] - lower[0]) / _Z_95
    if standard_error == 0:
        return 0.0
    # erfc(z / √2) is the two-sided p-value of a standard normal z.
    return math.erfc(difference / standard_error / math.sqrt(2))


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple tests by Holm's step-down method (1979).

    It is written here because scipy does not have it: `scipy.stats.false_discovery_control`
    controls another error rate. `statsmodels.stats.multitest.multipletests(method="holm")` does the
    same, but statsmodels would be a new dependency for these few lines.

    Args:
        p_values: p-values of all tests, in any order; may be empty.

    Returns:
        The corrected p-values, at most 1, in the same order.
    """
    ascending = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    # The smallest of n p-values is multiplied by n, the next by n - 1 and so on. A larger p-value
    # never gets a smaller corrected one, hence the running maximum.
    running_max = 0.0
    for rank, index in enumerate(ascending):
        scaled = (len(p_values) - rank) * p_values[index]
        running_max = max(running_max, min(1.0, scaled))
        corrected[index] = running_max
    return corrected

"""Which differences are larger than their noise."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Literal

from beamclip.reporting.comparison import Comparison
from beamclip.reporting.groups import Cell

Verdict = Literal["worse", "not told apart", "better"]
TEST = "linear_probe/test_top1"
LEVEL = 0.05
_Z = 1.959964  # of 95 % intervals, as those that are logged


def verdicts(comparison: Comparison) -> tuple[Verdict | None, ...]:
    """For each of `comparison.cells`, how its test accuracy stands to that of the best; None for the best and where nothing can be said.

    With two seeds or more in both cells the test is Welch's t over seeds (for which the best, being chosen, is somewhat too high: see
    docs/comparing.md); with one in both it is `p_over_images`; a cell with one seed beside one with several is left open. All p-values
    are corrected together after Holm, so that of many cells none is called worse by chance in 95 of 100 sweeps.
    """
    best = comparison.best_cell
    if best is None:
        return (None,) * len(comparison.cells)
    found = {
        index: p
        for index, cell in enumerate(comparison.cells)
        if cell is not best and (p := _p_value(best, cell)) is not None
    }
    told = dict(zip(found, holm(list(found.values())), strict=True))
    return tuple(
        _verdict(best, cell, told[index]) if index in told else None
        for index, cell in enumerate(comparison.cells)
    )


def over_seeds(comparison: Comparison) -> bool:
    """Whether noise is judged over seeds, not over test images."""
    return comparison.best_cell is not None and len(comparison.best_cell.numbers(TEST)) > 1


def _verdict(best: Cell, cell: Cell, p: float) -> Verdict:
    if p > LEVEL:
        return "not told apart"
    return "worse" if (cell.mean(TEST) or 0.0) < (best.mean(TEST) or 0.0) else "better"


def _p_value(best: Cell, cell: Cell) -> float | None:
    ours, others = best.numbers(TEST), cell.numbers(TEST)
    if not cell.finished:
        return None
    if len(ours) > 1 and len(others) > 1:
        return welch(ours, others)
    one, other = best.finished[0].metrics, cell.finished[0].metrics
    keys = [TEST, f"{TEST}_low", f"{TEST}_high"]
    if len(ours) != len(others) or not all(key in row for row in (one, other) for key in keys):
        return None
    return p_over_images([one[key] for key in keys], [other[key] for key in keys])


def welch(ours: Sequence[float], others: Sequence[float]) -> float:
    """Two-sided p-value that two means over seeds are the same, the variances being free (Welch's t-test).

    1 where neither set scatters: a handful of runs with the same accuracy to the last image does not say that there is no noise.
    """
    from scipy.stats import ttest_ind_from_stats

    if len(set(ours)) == 1 and len(set(others)) == 1:
        return 1.0
    described = [(fmean(numbers), stdev(numbers), len(numbers)) for numbers in (ours, others)]
    return float(ttest_ind_from_stats(*described[0], *described[1], equal_var=False).pvalue)


def p_over_images(one: Sequence[float], other: Sequence[float]) -> float:
    """Two-sided p-value that two runs are equally accurate, from accuracy and 95 % interval (value, low, high, in per cent) of each.

    The interval of the difference is put together from both intervals, as Newcombe does with Wilson's (Statistics in Medicine 17,
    1998, method 10) and Zou and Donner with any (27, 2008), so that the number of images need not be known; taking it at other
    levels than 95 % is our approximation. Both runs saw the same images, and a paired test would tell more apart, but which images
    each got right is no metric. Of seeds it says nothing: the same settings trained again may differ by more.
    """
    higher, lower = sorted((one, other), key=lambda run: -run[0])
    error = math.hypot(higher[0] - higher[1], lower[2] - lower[0]) / _Z
    difference = higher[0] - lower[0]
    return (
        1.0 if difference == 0 else math.erfc(difference / error / math.sqrt(2)) if error else 0.0
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979), in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted

"""Measure how much of a metric's variance each varied setting explains alone (η²)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import fmean
from typing import Any

from beamclip.reporting.comparison import Comparison
from beamclip.reporting.groups import RunRow
from beamclip.tracking.serialize import is_number, short_names, shorten_number

# With fewer trials a range is cut into halves, so that each part has several.
_MIN_TRIALS_FOR_THIRDS = 9

TrialResult = tuple[str, float]
"""Value of the setting in a trial, as text, and the trial's metric."""


@dataclass(frozen=True)
class ValueGroup:
    """The trials at one value of a setting, or in one part of its range.

    Attributes:
        label: the value, or the smallest and largest value of the part.
        values: each trial's value of the setting, as text.
        results: each trial's metric.
    """

    label: str
    values: tuple[str, ...]
    results: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the metric."""
        return fmean(self.results)


@dataclass(frozen=True)
class SettingEffect:
    """The effect of one setting alone on a metric.

    Attributes:
        setting: dotted key of the setting.
        groups: two or more groups of trials. They are sorted by value if all values are numbers,
            else by their mean, lowest first.
        numeric: True if all values are numbers.
        from_range: True if the values were drawn from a range; the groups are its halves or thirds.
    """

    setting: str
    groups: tuple[ValueGroup, ...]
    numeric: bool
    from_range: bool

    @property
    def trials(self) -> int:
        """Number of trials in all groups."""
        return sum(len(group.results) for group in self.groups)

    @property
    def eta_squared(self) -> float:
        """η²: the sum of squares between groups divided by the total sum of squares, 0 to 1.

        It is 0 if all results are equal.
        """
        results = [result for group in self.groups for result in group.results]
        # Not `total == 0`: the mean of equal floats may differ from them by a rounding error.
        if min(results) == max(results):
            return 0.0
        mean = fmean(results)
        between = math.fsum(len(group.results) * (group.mean - mean) ** 2 for group in self.groups)
        total = math.fsum((result - mean) ** 2 for result in results)
        # Rounding may give slightly more than 1.
        return min(1.0, between / total)

    @property
    def eta_squared_by_chance(self) -> float:
        """Expected η² if the results were assigned to the trials at random.

        With few trials and many values, even a setting without any effect gets a large η².
        """
        return (len(self.groups) - 1) / (self.trials - 1)

    @property
    def best(self) -> ValueGroup:
        """The group with the highest mean."""
        return max(self.groups, key=lambda group: group.mean)

    @property
    def worst(self) -> ValueGroup:
        """The group with the lowest mean."""
        return min(self.groups, key=lambda group: group.mean)


def setting_effects(comparison: Comparison) -> tuple[SettingEffect, ...]:
    """Return the effect of each setting that varies among the finished trials.

    The seed is left out: its effect is noise. Trials that failed, were stopped early or have no
    finite metric are left out too. Over a complete grid the η² add up to at most 1; the rest is
    interactions between settings, and noise.

    Returns:
        The effects, largest η² first. Empty if fewer than two settings vary, since a single one
        always explains everything.
    """
    trials = trials_with_metric(comparison)
    effects = []
    for key in comparison.varied_settings:
        effect = setting_effect(trials, key, comparison.metric, key in comparison.ranges)
        if effect is not None:
            effects.append(effect)
    if len(effects) < 2:
        return ()
    return tuple(sorted(effects, key=lambda effect: (-effect.eta_squared, effect.setting)))


def trials_with_metric(comparison: Comparison) -> list[RunRow]:
    """Return the finished trials with a finite `comparison.metric`, best first."""
    trials = []
    for row in comparison.trials:
        value = row.metrics.get(comparison.metric, math.nan)
        if row.status == "FINISHED" and math.isfinite(value):
            trials.append(row)
    return trials


def setting_effect(
    rows: Iterable[RunRow], key: str, metric: str, from_range: bool = False
) -> SettingEffect | None:
    """Return the effect of one setting, or None if the trials do not differ in it.

    Args:
        rows: trials with a finite `metric`.
        key: dotted key of the setting.
        metric: MLflow key of the metric.
        from_range: True if the values were drawn from a range. Then hardly any value occurs twice,
            so the range is cut into halves or thirds.
    """
    results = [(row.settings[key], row.metrics[metric]) for row in rows if key in row.settings]
    if len({value for value, _ in results}) < 2:
        return None
    numeric = all(is_number(value) for value, _ in results)
    if numeric:
        results.sort(key=lambda result: (float(result[0]), *result))
    else:
        results.sort()
    from_range = from_range and numeric
    if from_range:
        groups = _split_range(results)
    else:
        # groupby joins neighbors only; sorting has put equal values next to each other.
        groups = []
        for value, same_value in groupby(results, lambda result: result[0]):
            groups.append(_value_group(shorten_number(value), same_value))
    if not numeric:
        groups.sort(key=lambda group: group.mean)
    return SettingEffect(key, tuple(groups), numeric, from_range)


def _split_range(results: Sequence[TrialResult]) -> list[ValueGroup]:
    """Cut trials that are sorted by value into halves or thirds with equally many trials."""
    count = 3 if len(results) >= _MIN_TRIALS_FOR_THIRDS else 2
    bounds = [round(len(results) * part / count) for part in range(count + 1)]
    groups = []
    for start, end in pairwise(bounds):
        part = results[start:end]
        label = f"{float(part[0][0]):.3g} to {float(part[-1][0]):.3g}"
        groups.append(_value_group(label, part))
    return groups


def _value_group(label: str, trial_results: Iterable[TrialResult]) -> ValueGroup:
    values, results = zip(*trial_results, strict=True)
    return ValueGroup(label, values, results)


def effects_table(effects: Iterable[SettingEffect]) -> list[dict[str, Any]]:
    """Return a row for each setting, the content of `effects.csv`."""
    return [
        {
            "setting": effect.setting,
            "eta_squared": round(effect.eta_squared, 4),
            "eta_squared_by_chance": round(effect.eta_squared_by_chance, 4),
            "best_value": effect.best.label,
            "mean_at_best": round(effect.best.mean, 4),
            "mean_at_worst": round(effect.worst.mean, 4),
            "trials": effect.trials,
        }
        for effect in effects
    ]


def effects_summary(comparison: Comparison) -> str | None:
    """Return one line with each setting's share of the variance, or None without effects.

    A share that is not above what chance would give is followed by the share by chance.
    """
    effects = setting_effects(comparison)
    if not effects:
        return None
    names = short_names((effect.setting for effect in effects), symbols=False)
    shares = []
    for effect in effects:
        share = f"{names[effect.setting]} {100 * effect.eta_squared:.0f} %"
        if effect.eta_squared <= effect.eta_squared_by_chance:
            share += f" (by chance {100 * effect.eta_squared_by_chance:.0f} %)"
        shares.append(share)
    return f"share of the variance of {comparison.metric} explained: {', '.join(shares)}"

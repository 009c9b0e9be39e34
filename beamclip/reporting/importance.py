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

# With fewer trials than this a range is cut into halves, not thirds.
_MIN_TRIALS_FOR_THIRDS = 9

TrialResult = tuple[str, float]
"""A trial's value of the setting, as text, and its metric."""


@dataclass(frozen=True)
class ValueGroup:
    """The trials at one value of a setting, or in one part of its range.

    Attributes:
        label: the value, or both ends of the part.
        values: of the setting, as text, one a trial.
        results: the metric, one a trial.
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
        setting: its dotted key.
        groups: two or more; in the order of numbers if all values are numbers, else the group with
            the worst mean first.
        numeric: all values are numbers.
        from_range: the values were drawn from a range; the groups are its halves or thirds.
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
        """η², the sum of squares between groups over the total one, from 0 to 1.

        0 if the metric is always the same.
        """
        results = [result for group in self.groups for result in group.results]
        if min(results) == max(results):
            return 0.0
        mean = fmean(results)
        between = math.fsum(len(group.results) * (group.mean - mean) ** 2 for group in self.groups)
        total = math.fsum((result - mean) ** 2 for result in results)
        return min(1.0, between / total)

    @property
    def eta_squared_by_chance(self) -> float:
        """Mean η² if the results were dealt to the trials at random.

        It is large with few trials and many values.
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

    The seed is not a setting: trials that differ only in it repeat one another, and what it changes
    is noise. Trials that failed, were stopped early or have no finite metric are left out. Over a
    complete grid the η² add up to 1 or less; the rest is interactions of settings, and noise.

    Returns:
        The setting with the largest η² first. Empty if fewer than two settings vary: a single one
        explains everything there is.
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
        rows: trials that have `metric`, a finite number.
        key: dotted key of the setting.
        metric: MLflow key of the metric.
        from_range: the values were drawn from a range, so hardly one occurs twice. Trials are then
            grouped with their neighbors.
    """
    results = [(row.settings[key], row.metrics[metric]) for row in rows if key in row.settings]
    if len({value for value, _ in results}) < 2:
        return None
    numeric = all(is_number(value) for value, _ in results)
    results.sort(key=lambda result: (float(result[0]) if numeric else 0.0, *result))
    from_range = from_range and numeric
    if from_range:
        groups = _split_range(results)
    else:
        by_value = groupby(results, lambda result: result[0])
        groups = [_value_group(shorten_number(value), same) for value, same in by_value]
    if not numeric:
        groups.sort(key=lambda group: group.mean)
    return SettingEffect(key, tuple(groups), numeric, from_range)


def _split_range(results: Sequence[TrialResult]) -> list[ValueGroup]:
    """Cut trials, ordered by value, into halves or thirds of equally many trials."""
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
    """Return the effects as a table, one row a setting: the content of `effects.csv`."""
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

    A share that is no larger than chance would give is followed by chance's.
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

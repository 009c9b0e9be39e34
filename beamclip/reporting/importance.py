"""What mattered in a sweep: how much of a metric's variance each varied setting explains alone."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import fmean
from typing import Any

from beamclip.reporting.comparison import Comparison
from beamclip.reporting.groups import Row
from beamclip.tracking.serialize import digits, is_number, short_names

_THIRDS_FROM = 9  # trials; with fewer, a range is cut into halves


@dataclass(frozen=True)
class Group:
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
        return fmean(self.results)


@dataclass(frozen=True)
class Effect:
    """What one setting alone says about the metric.

    Attributes:
        setting: its dotted key.
        groups: two or more: in the order of numbers, where all values are numbers, else worst mean first.
        numeric: all values are numbers.
        drawn: they were drawn from a range, and groups are its halves or thirds.
    """

    setting: str
    groups: tuple[Group, ...]
    numeric: bool
    drawn: bool

    @property
    def trials(self) -> int:
        return sum(len(group.results) for group in self.groups)

    @property
    def share(self) -> float:
        """η², the sum of squares between groups over the total one, 0 to 1; 0 where the metric is always the same."""
        results = [result for group in self.groups for result in group.results]
        if min(results) == max(results):
            return 0.0
        mean = fmean(results)
        between = math.fsum(len(group.results) * (group.mean - mean) ** 2 for group in self.groups)
        return min(1.0, between / math.fsum((result - mean) ** 2 for result in results))

    @property
    def by_chance(self) -> float:
        """What η² is on average when the results are dealt to the trials at random: few trials and many values explain much."""
        return (len(self.groups) - 1) / (self.trials - 1)

    @property
    def best(self) -> Group:
        return max(self.groups, key=lambda group: group.mean)

    @property
    def worst(self) -> Group:
        return min(self.groups, key=lambda group: group.mean)


def effects(comparison: Comparison) -> tuple[Effect, ...]:
    """Every setting with two or more values among the finished trials, the one that explains most first.

    The seed is no setting: trials that differ in it alone repeat one another, and what it does is noise.
    What failed, was stopped early or has no finite `metric` is left out. Empty where fewer than two settings vary: a single one
    explains all there is. Shares add up to 1 or less on a whole grid; the rest is what settings do together, and noise.
    """
    rows = measured(comparison)
    found = [
        effect_of(rows, key, comparison.metric, key in comparison.ranges)
        for key in comparison.settings
    ]
    known = sorted(
        (effect for effect in found if effect is not None),
        key=lambda effect: (-effect.share, effect.setting),
    )
    return tuple(known) if len(known) > 1 else ()


def measured(comparison: Comparison) -> list[Row]:
    """The finished trials with a finite `metric`, best first."""
    return [
        row
        for row in comparison.trials
        if row.status == "FINISHED" and math.isfinite(row.metrics.get(comparison.metric, math.nan))
    ]


def effect_of(rows: Iterable[Row], key: str, metric: str, drawn: bool = False) -> Effect | None:
    """The effect of one setting; None where the trials do not differ in it.

    Args:
        rows: trials that have `metric`, a finite number.
        drawn: the values come from a range, where hardly one is there twice: neighbours form the groups.
    """
    trials = [(row.values[key], row.metrics[metric]) for row in rows if key in row.values]
    numeric = all(is_number(value) for value, _ in trials)
    if len({value for value, _ in trials}) < 2:
        return None
    trials.sort(key=lambda trial: (float(trial[0]) if numeric else 0.0, *trial))
    drawn = drawn and numeric
    groups = (
        _parts(trials)
        if drawn
        else [
            _group(digits(value), same) for value, same in groupby(trials, lambda trial: trial[0])
        ]
    )
    return Effect(
        key,
        tuple(groups if numeric else sorted(groups, key=lambda group: group.mean)),
        numeric,
        drawn,
    )


Trial = tuple[str, float]


def _parts(trials: Sequence[Trial]) -> list[Group]:
    """Equally many trials in each, in the order of the values."""
    count = 3 if len(trials) >= _THIRDS_FROM else 2
    cuts = [round(len(trials) * part / count) for part in range(count + 1)]
    parts = [trials[start:end] for start, end in pairwise(cuts)]
    return [_group(f"{float(part[0][0]):.3g} to {float(part[-1][0]):.3g}", part) for part in parts]


def _group(label: str, trials: Iterable[Trial]) -> Group:
    values, results = zip(*trials, strict=True)
    return Group(label, values, results)


def effect_rows(found: Iterable[Effect]) -> list[dict[str, Any]]:
    """The same as a table, one row a setting."""
    return [
        {
            "setting": effect.setting,
            "eta_squared": round(effect.share, 4),
            "eta_squared_by_chance": round(effect.by_chance, 4),
            "best_value": effect.best.label,
            "mean_at_best": round(effect.best.mean, 4),
            "mean_at_worst": round(effect.worst.mean, 4),
            "trials": effect.trials,
        }
        for effect in found
    ]


def effects_line(comparison: Comparison) -> str | None:
    """The same in a line for people, and what chance would give where that is no less; None where `effects` has nothing to say."""
    found = effects(comparison)
    names = short_names((effect.setting for effect in found), symbols=False)
    shares = [
        f"{names[effect.setting]} {100 * effect.share:.0f} %{_doubt(effect)}" for effect in found
    ]
    return (
        f"what mattered (share of the variance of {comparison.metric}): {', '.join(shares)}"
        if found
        else None
    )


def _doubt(effect: Effect) -> str:
    return "" if effect.share > effect.by_chance else f" (by chance {100 * effect.by_chance:.0f} %)"

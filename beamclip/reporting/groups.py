"""Group a sweep's trials by their settings, so that a group has one trial for each seed."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

from beamclip.tracking.serialize import run_name

SEED = "seed"


@dataclass(frozen=True)
class RunRow:
    """One MLflow run: a trial, a reference run or a published result.

    Attributes:
        run_id: its MLflow id.
        name: its MLflow name.
        kind: "trial" or "reference"; published results have their own.
        method: the objective's name, or what a reference is ("teacher", "untrained").
        status: MLflow's, such as "FINISHED".
        settings: the values of the sweep's varied keys, as text.
        metrics: the last value of each metric.
        tags: all its MLflow tags.
        seconds: from start to end, any pause before a resume included; None while it runs.
    """

    run_id: str
    name: str
    kind: str
    method: str
    status: str
    settings: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    seconds: float | None


@dataclass(frozen=True)
class TrialGroup:
    """Trials with the same settings, one for each seed.

    A sweep that does not vary the seed has groups of one trial.
    """

    rows: tuple[RunRow, ...]

    @property
    def settings(self) -> dict[str, str]:
        """The varied settings without the seed."""
        return {key: value for key, value in self.rows[0].settings.items() if key != SEED}

    @property
    def name(self) -> str:
        """The settings as text; the trial's own name if the sweep does not vary the seed."""
        if SEED in self.rows[0].settings:
            return run_name(self.settings)
        return self.rows[0].name

    @property
    def finished(self) -> tuple[RunRow, ...]:
        """The finished trials."""
        return tuple(row for row in self.rows if row.status == "FINISHED")

    def metric_values(self, key: str) -> tuple[float, ...]:
        """Return a metric's finite values, one a seed.

        Only finished trials count, unless none is finished: then all do.
        """
        rows = self.finished or self.rows
        values = (row.metrics.get(key, math.nan) for row in rows)
        return tuple(value for value in values if math.isfinite(value))

    def mean(self, key: str) -> float | None:
        """Return the mean of `metric_values`, or None if there are none."""
        values = self.metric_values(key)
        return fmean(values) if values else None

    def half_interval(self, key: str) -> float | None:
        """Return half the 95 % interval of the mean over seeds, or None with fewer than two."""
        values = self.metric_values(key)
        return half_interval(values) if len(values) > 1 else None


def half_interval(values: tuple[float, ...]) -> float:
    """Return half the 95 % interval of a mean by Student's t: t(0.975, n - 1) · s / √n.

    Args:
        values: two or more measurements, one a seed.
    """
    # scipy takes a second to import; commands that print no table should not wait for it.
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def group_trials(trials: Iterable[RunRow], metric: str) -> tuple[TrialGroup, ...]:
    """Group trials by everything but the seed.

    Args:
        trials: the sweep's trials.
        metric: the groups' order: the highest mean of it comes first, groups without it last.
    """
    rows_by_settings: dict[object, list[RunRow]] = defaultdict(list)
    for row in trials:
        if SEED in row.settings:
            settings = {key: value for key, value in row.settings.items() if key != SEED}
            rows_by_settings[tuple(sorted(settings.items()))].append(row)
        else:
            rows_by_settings[id(row)].append(row)
    groups = [TrialGroup(tuple(sorted(rows, key=_by_seed))) for rows in rows_by_settings.values()]

    def highest_mean_first(group: TrialGroup) -> tuple[float, str]:
        mean = group.mean(metric)
        return (math.inf if mean is None else -mean, group.name)

    return tuple(sorted(groups, key=highest_mean_first))


def _by_seed(row: RunRow) -> tuple[int, str]:
    """Return a sort key that puts seed 10 after seed 9."""
    seed = row.settings.get(SEED, "")
    return len(seed), seed


def choose_best_group(groups: Iterable[TrialGroup], metric: str) -> TrialGroup | None:
    """Return the group with the highest mean of `metric` over its finished trials.

    Only groups with the most finished seeds are considered. Fewer seeds scatter more and are lucky
    more often, so a group that lacks seeds is not chosen while another one is complete.

    Args:
        groups: as `group_trials` orders them, the highest mean first.
        metric: a val metric, never one of test.

    Returns:
        The group, or None if no finished trial has the metric.
    """
    candidates = [group for group in groups if group.finished and group.metric_values(metric)]
    most_seeds = max((len(group.metric_values(metric)) for group in candidates), default=0)
    for group in candidates:
        if len(group.metric_values(metric)) == most_seeds:
            return group
    return None

"""Group the trials of a sweep that have the same settings and differ only in their seed."""

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
        run_id: MLflow id of the run.
        name: MLflow name of the run.
        kind: "trial", "reference" or "published".
        method: name of the objective; "teacher" or "untrained" for a reference run.
        status: MLflow status, such as "FINISHED".
        settings: values of the sweep's varied keys, as text.
        metrics: last value of each metric.
        tags: all MLflow tags of the run.
        seconds: wall-clock time from start to end, including any pause before a resume; None while
            the run has not ended.
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

    If the sweep does not vary the seed, each trial is its own group.
    """

    rows: tuple[RunRow, ...]

    @property
    def settings(self) -> dict[str, str]:
        """The varied settings without the seed."""
        return {key: value for key, value in self.rows[0].settings.items() if key != SEED}

    @property
    def name(self) -> str:
        """The settings as text, or the name of the single trial if the seed is not varied."""
        if SEED in self.rows[0].settings:
            return run_name(self.settings)
        return self.rows[0].name

    @property
    def finished(self) -> tuple[RunRow, ...]:
        """The finished trials."""
        return tuple(row for row in self.rows if row.status == "FINISHED")

    def metric_values(self, key: str) -> tuple[float, ...]:
        """Return a metric's finite values, one for each seed.

        They are those of the finished trials, or of all trials if none has finished.
        """
        rows = self.finished or self.rows
        values = (row.metrics.get(key, math.nan) for row in rows)
        return tuple(value for value in values if math.isfinite(value))

    def mean(self, key: str) -> float | None:
        """Return the mean of `metric_values`, or None if there are none."""
        values = self.metric_values(key)
        return fmean(values) if values else None

    def half_interval(self, key: str) -> float | None:
        """Return half the 95 % interval of the mean over seeds; None with fewer than two values."""
        values = self.metric_values(key)
        return half_interval(values) if len(values) > 1 else None


def half_interval(values: tuple[float, ...]) -> float:
    """Return half the 95 % interval of a mean by Student's t: t(0.975, n - 1) · s / √n.

    Args:
        values: two or more measurements, one for each seed.
    """
    # Importing scipy.stats takes a second. Commands that print no table should not wait for it.
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def group_trials(trials: Iterable[RunRow], metric: str) -> tuple[TrialGroup, ...]:
    """Group trials by their settings without the seed.

    Args:
        trials: the sweep's trials.
        metric: MLflow key of the metric by which the groups are sorted.

    Returns:
        The groups, the highest mean of `metric` first and groups without it last.
    """
    rows_by_settings: dict[object, list[RunRow]] = defaultdict(list)
    for row in trials:
        if SEED in row.settings:
            settings = {key: value for key, value in row.settings.items() if key != SEED}
            rows_by_settings[tuple(sorted(settings.items()))].append(row)
        else:
            # A random search may draw the same settings twice. Without a varied seed these trials
            # stay apart, so the key is the row itself.
            rows_by_settings[id(row)].append(row)
    groups = []
    for rows in rows_by_settings.values():
        groups.append(TrialGroup(tuple(sorted(rows, key=_by_seed))))

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

    Only groups with the largest number of finished seeds are considered. A mean over fewer seeds
    varies more and is more often high by luck.

    Args:
        groups: sorted by their mean of `metric`, highest first, as `group_trials` returns them.
        metric: MLflow key of a val metric; test must not be used for choices.

    Returns:
        The group, or None if no finished trial has the metric.
    """
    candidates = [group for group in groups if group.finished and group.metric_values(metric)]
    most_seeds = max((len(group.metric_values(metric)) for group in candidates), default=0)
    for group in candidates:
        if len(group.metric_values(metric)) == most_seeds:
            return group
    return None

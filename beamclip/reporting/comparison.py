"""Read a sweep back from MLflow: its trials, reference runs, published results, and the best."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from beamclip.config import UserError, nearest
from beamclip.config.renamed import current_key
from beamclip.reporting.groups import SEED, RunRow, TrialGroup, choose_best_group, group_trials
from beamclip.tracking import connect
from beamclip.tracking.client import MlflowClient, Run, search_all
from beamclip.tracking.published import read_published
from beamclip.tracking.serialize import VARIED

VAL_METRIC = "linear_probe/val_top1"
TEST_METRIC = "linear_probe/test_top1"
DEVICE_SECONDS = "cost/device_seconds"
IMAGES_SEEN = "cost/images_seen"

# `beamclip.tracking.serialize.space_params` logs each dimension as JSON. A range begins like this,
# a list of values with `{"kind": "choice"`.
_RANGE_PREFIX = '{"kind": "uniform"'


@dataclass(frozen=True)
class Comparison:
    """A sweep's trials, and the runs and published results that they are compared with.

    A sweep has a parent run in MLflow; the trials and reference runs are its children.

    Attributes:
        experiment: name of the sweep and of its MLflow experiment.
        sweep_id: id of the sweep; several sweeps may have the same name.
        question: the question that the sweep should answer; "-" if none was given.
        status: MLflow status of the parent run, such as "FINISHED".
        metric: MLflow key of the val metric by which the best settings are chosen.
        varied: dotted keys of the search space.
        trials: one row per trial, sorted by `metric`: the highest first, trials without it last.
        references: the teacher and the untrained student.
        published: results of other works, the highest test accuracy first.
        ranges: the keys in `varied` whose values are drawn from a range.
        run_id: MLflow id of the parent run.
        tags: tags of the parent run.
        params: params of the parent run.
    """

    experiment: str
    sweep_id: str
    question: str
    status: str
    metric: str
    varied: tuple[str, ...]
    trials: tuple[RunRow, ...]
    references: tuple[RunRow, ...]
    published: tuple[RunRow, ...]
    ranges: frozenset[str] = frozenset()
    run_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)

    @property
    def varied_settings(self) -> tuple[str, ...]:
        """The varied keys except the seed: trials that differ only in it repeat a setting."""
        return tuple(key for key in self.varied if key != SEED)

    @cached_property
    def groups(self) -> tuple[TrialGroup, ...]:
        """Trials grouped by their settings, the highest mean of `metric` first."""
        return group_trials(self.trials, self.metric)

    @cached_property
    def best_group(self) -> TrialGroup | None:
        """The best group by its mean of `metric` over seeds; None if no trial has finished with it.

        It is chosen on val, never on test. See `choose_best_group`.
        """
        return choose_best_group(self.groups, self.metric)

    @property
    def best(self) -> RunRow | None:
        """The finished trial with the highest `metric` in the best group; None without a group."""
        if self.best_group is None:
            return None
        rows = [row for row in self.best_group.finished if self.metric in row.metrics]
        return max(rows, key=lambda row: row.metrics[self.metric], default=None)

    @property
    def measured(self) -> tuple[RunRow, ...]:
        """All rows that this sweep measured itself: trials, then references."""
        return self.trials + self.references


def compare(uri: str, experiment_name: str, sweep_id: str | None = None) -> Comparison:
    """Read a sweep from MLflow.

    Args:
        uri: MLflow tracking URI.
        experiment_name: name of the sweep.
        sweep_id: id of the sweep; default: the latest sweep of that name.

    Raises:
        UserError: the server at `uri` does not answer, or it has no such experiment or sweep.
    """
    client = connect(uri, create=False)
    experiment_id = _find_experiment(client, experiment_name)
    parent = _find_sweep_run(client, experiment_id, experiment_name, sweep_id)
    params = dict(parent.data.params)
    # Sweeps of earlier versions logged their search space under old setting names.
    space = {
        current_key(key.removeprefix("space.")): text
        for key, text in params.items()
        if key.startswith("space.")
    }
    varied = tuple(space)
    ranges = frozenset(key for key, text in space.items() if text.startswith(_RANGE_PREFIX))
    metric = params.get("sweep.metric", VAL_METRIC)

    child_runs = search_all(
        client, experiment_id, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    children = [_to_row(run, varied) for run in child_runs]
    trials = [row for row in children if row.kind == "trial"]
    references = [row for row in children if row.kind == "reference"]
    # Published results belong to the experiment, not to one of its sweeps, and have no settings.
    published = [_to_row(run, ()) for run in read_published(client, experiment_id)]

    return Comparison(
        experiment=experiment_name,
        sweep_id=parent.data.tags["beamclip.sweep_id"],
        question=parent.data.tags.get("question", ""),
        status=str(parent.info.status),
        metric=metric,
        varied=varied,
        trials=_best_first(trials, metric),
        references=tuple(sorted(references, key=lambda row: row.method)),
        published=_best_first(published, TEST_METRIC),
        ranges=ranges,
        run_id=str(parent.info.run_id),
        tags=dict(parent.data.tags),
        params=params,
    )


def _find_experiment(client: MlflowClient, name: str) -> str:
    """Return the id of an active MLflow experiment, or raise UserError with similar names."""
    experiment = client.get_experiment_by_name(name)
    # MLflow also returns deleted experiments.
    if experiment is not None and experiment.lifecycle_stage == "active":
        return str(experiment.experiment_id)
    # MLflow creates "Default" in every database.
    names = [other.name for other in client.search_experiments() if other.name != "Default"]
    hint = nearest(name, names) or "; run its sweep first"
    raise UserError(f"MLflow experiment {name} does not exist{hint}")


def _find_sweep_run(
    client: MlflowClient, experiment_id: str, name: str, sweep_id: str | None
) -> Run:
    """Return the parent run of this sweep, or of the latest one if `sweep_id` is None."""
    sweeps = search_all(client, experiment_id, "tags.kind = 'sweep'")
    if not sweeps:
        raise UserError(f"MLflow experiment {name} has no sweep; run one first")
    if sweep_id is None:
        # `search_all` returns the newest run first.
        return sweeps[0]
    ids = [run.data.tags.get("beamclip.sweep_id", "") for run in sweeps]
    if sweep_id not in ids:
        raise UserError(
            f"sweep {sweep_id} is not in MLflow experiment {name}{nearest(sweep_id, ids)}"
        )
    return sweeps[ids.index(sweep_id)]


def _to_row(run: Run, varied: tuple[str, ...]) -> RunRow:
    """Convert an MLflow run into a row with its values of the varied keys."""
    info = run.info
    data = run.data
    seconds = None
    # A resumed run keeps its earlier end time while it is running again. Times are in ms.
    if info.end_time and info.status != "RUNNING":
        seconds = (info.end_time - info.start_time) / 1000
    return RunRow(
        run_id=str(info.run_id),
        name=str(info.run_name),
        kind=data.tags.get("kind", ""),
        method=data.tags.get("method", ""),
        status=str(info.status),
        settings=_varied_settings(data.params, data.tags, varied),
        metrics=dict(data.metrics),
        tags=dict(data.tags),
        seconds=seconds,
    )


def _varied_settings(
    params: Mapping[str, str], tags: Mapping[str, str], varied: tuple[str, ...]
) -> dict[str, str]:
    """Return the values that a run has for the varied keys.

    Reference runs have no params. Their teacher and prompt set are read from tags. A variant (a
    named bundle of settings) is a param of the trial or, in some sweeps, only a tag.
    """
    from_tags = {
        "anchors.prompt_set": tags.get("prompt_set"),
        "teacher.model": tags.get("teacher"),
        "variant": tags.get("variant"),
    }
    # Runs of earlier versions have params under old names.
    from_params = {current_key(key): value for key, value in params.items()}
    settings = {}
    for key in varied:
        value = from_params.get(key, from_tags.get(key))
        # Children inherit the parent's tags. There, VARIED stands for "differs between trials".
        if value is not None and value != VARIED:
            settings[key] = value
    return settings


def _best_first(rows: Iterable[RunRow], metric: str) -> tuple[RunRow, ...]:
    """Sort rows by a metric, highest first; rows without it come last, ties are sorted by name."""

    def sort_key(row: RunRow) -> tuple[float, str]:
        return (-row.metrics.get(metric, -math.inf), row.name)

    return tuple(sorted(rows, key=sort_key))

"""Read a sweep back from MLflow: its trials, reference runs, published results, and the best."""

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

# How `beamclip.tracking.serialize.space_params` writes a dimension that is drawn from a range.
_RANGE_PREFIX = '{"kind": "uniform"'


@dataclass(frozen=True)
class Comparison:
    """A sweep and what its trials are compared with.

    Trials are sorted by `metric`, the best first, those without it last.

    Attributes:
        experiment: the sweep's name, which is also its MLflow experiment.
        sweep_id: its id within that name.
        question: what the sweep should answer; "-" if none was given.
        status: of the sweep's own run, such as "FINISHED".
        metric: the val metric by which the best settings are chosen.
        varied: dotted keys of the search space.
        trials: one row a trial.
        references: the teacher and the untrained student.
        published: results of other works, best first.
        ranges: those of `varied` that are drawn from a range.
        run_id: of the sweep's own run, the parent of the trials.
        tags: of the sweep's own run.
        params: of the sweep's own run.
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
        """The varied keys without the seed: seeds repeat a setting, they are none."""
        return tuple(key for key in self.varied if key != SEED)

    @cached_property
    def groups(self) -> tuple[TrialGroup, ...]:
        """Trials grouped by their settings, the highest mean of `metric` first."""
        return group_trials(self.trials, self.metric)

    @cached_property
    def best_group(self) -> TrialGroup | None:
        """The group chosen by its mean of `metric` over seeds: on val, never on test."""
        return choose_best_group(self.groups, self.metric)

    @property
    def best(self) -> RunRow | None:
        """The finished trial of the best group with the highest `metric`."""
        rows = self.best_group.finished if self.best_group else ()
        measured = [row for row in rows if self.metric in row.metrics]
        return max(measured, key=lambda row: row.metrics[self.metric], default=None)

    @property
    def measured(self) -> tuple[RunRow, ...]:
        """Trials, then references: all that was measured here."""
        return self.trials + self.references


def compare(uri: str, experiment_name: str, sweep_id: str | None = None) -> Comparison:
    """Read a sweep from MLflow.

    Args:
        uri: MLflow tracking URI.
        experiment_name: name of the sweep.
        sweep_id: default: the latest sweep of that name.

    Raises:
        UserError: the server at `uri` does not answer, or it has no such experiment or sweep.
    """
    client = connect(uri, create=False)
    experiment_id = _find_experiment(client, experiment_name)
    parent = _find_sweep_run(client, experiment_id, experiment_name, sweep_id)
    params = dict(parent.data.params)
    space = {
        current_key(key.removeprefix("space.")): text
        for key, text in params.items()
        if key.startswith("space.")
    }
    varied = tuple(space)
    metric = params.get("sweep.metric", VAL_METRIC)
    child_runs = search_all(
        client, experiment_id, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    children = [_to_row(run, varied) for run in child_runs]
    trials = [row for row in children if row.kind == "trial"]
    references = [row for row in children if row.kind == "reference"]
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
        ranges=frozenset(key for key, text in space.items() if text.startswith(_RANGE_PREFIX)),
        run_id=str(parent.info.run_id),
        tags=dict(parent.data.tags),
        params=params,
    )


def _find_experiment(client: MlflowClient, name: str) -> str:
    """Return the id of an active MLflow experiment, or raise UserError with similar names."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None and experiment.lifecycle_stage == "active":
        return str(experiment.experiment_id)
    names = [other.name for other in client.search_experiments() if other.name != "Default"]
    hint = nearest(name, names) or "; run its sweep first"
    raise UserError(f"MLflow experiment {name} does not exist{hint}")


def _find_sweep_run(
    client: MlflowClient, experiment_id: str, name: str, sweep_id: str | None
) -> Run:
    """Return the parent run of a sweep, of the latest if `sweep_id` is None."""
    sweeps = search_all(client, experiment_id, "tags.kind = 'sweep'")
    if not sweeps:
        raise UserError(f"MLflow experiment {name} has no sweep; run one first")
    if sweep_id is None:
        return sweeps[0]
    ids = [run.data.tags.get("beamclip.sweep_id", "") for run in sweeps]
    if sweep_id not in ids:
        raise UserError(
            f"sweep {sweep_id} is not in MLflow experiment {name}{nearest(sweep_id, ids)}"
        )
    return sweeps[ids.index(sweep_id)]


def _to_row(run: Run, varied: tuple[str, ...]) -> RunRow:
    info = run.info
    data = run.data
    seconds = None
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

    A reference run has no params, but its tags name the teacher and prompt set it belongs to. A
    variant (a named bundle of settings) is a param of the trial or, in some sweeps, only a tag.
    """
    from_tags = {
        "anchors.prompt_set": tags.get("prompt_set"),
        "teacher.model": tags.get("teacher"),
        "variant": tags.get("variant"),
    }
    # Runs of earlier versions have params under old names.
    named = {current_key(key): value for key, value in params.items()}
    settings = {}
    for key in varied:
        value = named.get(key, from_tags.get(key))
        if value is not None and value != VARIED:
            settings[key] = value
    return settings


def _best_first(rows: Iterable[RunRow], metric: str) -> tuple[RunRow, ...]:
    return tuple(sorted(rows, key=lambda row: (-row.metrics.get(metric, float("-inf")), row.name)))

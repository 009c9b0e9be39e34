"""Read a sweep back from MLflow: its trials, what they stand beside, and which was chosen."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from beamclip.config import UserError, nearest
from beamclip.reporting.groups import SEED, Cell, Row, best_of, cells_of
from beamclip.tracking import connect
from beamclip.tracking.client import MlflowClient, Run, search_all
from beamclip.tracking.published import read_published
from beamclip.tracking.serialize import VARIED

_RANGE = '{"kind": "uniform"'  # as `entries.space_params` writes it


@dataclass(frozen=True)
class Comparison:
    """A sweep and its neighbours. Trials are sorted by `metric`, best first, those without it last.

    Attributes:
        varied: dotted keys of the space.
        ranges: those of them that are drawn from a range.
        run_id: of the sweep's own run, the parent.
        tags, params: the parent's.
    """

    experiment: str
    sweep_id: str
    question: str
    status: str
    metric: str
    varied: tuple[str, ...]
    trials: tuple[Row, ...]
    references: tuple[Row, ...]
    published: tuple[Row, ...]
    ranges: frozenset[str] = frozenset()
    run_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> tuple[str, ...]:
        """The varied keys but for the seed, which is no setting anybody chooses: it repeats."""
        return tuple(key for key in self.varied if key != SEED)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Trials grouped by their settings, one a seed, the highest mean of `metric` first."""
        return cells_of(self.trials, self.metric)

    @cached_property
    def best_cell(self) -> Cell | None:
        """The settings that are chosen, by the mean of `metric` over seeds: on val, never on test."""
        return best_of(self.cells, self.metric)

    @property
    def best(self) -> Row | None:
        """Its finished trial with the highest `metric`."""
        rows = self.best_cell.finished if self.best_cell else ()
        return max(
            (row for row in rows if self.metric in row.metrics),
            key=lambda row: row.metrics[self.metric],
            default=None,
        )

    @property
    def measured(self) -> tuple[Row, ...]:
        """Trials, then references: what `temperature_plot` takes."""
        return self.trials + self.references


def compare(uri: str, experiment_name: str, sweep_id: str | None = None) -> Comparison:
    """The sweep with this id, by default the experiment's latest.

    Raises:
        UserError: nothing answers at `uri`, or there is no such experiment or sweep.
    """
    client = connect(uri, create=False)
    experiment_id = _experiment_id(client, experiment_name)
    parent = _parent(client, experiment_id, experiment_name, sweep_id)
    space = {
        key.removeprefix("space."): text
        for key, text in parent.data.params.items()
        if key.startswith("space.")
    }
    varied = tuple(space)
    metric = parent.data.params.get("sweep.metric", "linear_probe/val_top1")
    children = _rows(
        search_all(client, experiment_id, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"),
        varied,
    )
    return Comparison(
        experiment=experiment_name,
        sweep_id=parent.data.tags["beamclip.sweep_id"],
        question=parent.data.tags.get("question", ""),
        status=str(parent.info.status),
        metric=metric,
        varied=varied,
        trials=_best_first((row for row in children if row.kind == "trial"), metric),
        references=tuple(
            sorted((row for row in children if row.kind == "reference"), key=lambda row: row.method)
        ),
        published=_best_first(
            _rows(read_published(client, experiment_id), ()), "linear_probe/test_top1"
        ),
        ranges=frozenset(key for key, text in space.items() if text.startswith(_RANGE)),
        run_id=str(parent.info.run_id),
        tags=dict(parent.data.tags),
        params=dict(parent.data.params),
    )


def _experiment_id(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "active":
        return str(found.experiment_id)
    known = [
        experiment.name
        for experiment in client.search_experiments()
        if experiment.name != "Default"
    ]
    raise UserError(
        f"MLflow experiment {name} does not exist{nearest(name, known) or '; run its sweep first'}"
    )


def _parent(client: MlflowClient, experiment_id: str, name: str, sweep_id: str | None) -> Run:
    sweeps = search_all(client, experiment_id, "tags.kind = 'sweep'")
    ids = [run.data.tags.get("beamclip.sweep_id", "") for run in sweeps]
    if not sweeps:
        raise UserError(f"MLflow experiment {name} holds no sweep; run one first")
    if sweep_id is not None and sweep_id not in ids:
        raise UserError(
            f"sweep {sweep_id} is not in MLflow experiment {name}{nearest(sweep_id, ids)}"
        )
    return sweeps[0 if sweep_id is None else ids.index(sweep_id)]


def _rows(runs: Iterable[Run], varied: tuple[str, ...]) -> list[Row]:
    return [_row(run, varied) for run in runs]


def _row(run: Run, varied: tuple[str, ...]) -> Row:
    info, data = run.info, run.data
    return Row(
        run_id=str(info.run_id),
        name=str(info.run_name),
        kind=data.tags.get("kind", ""),
        method=data.tags.get("method", ""),
        status=str(info.status),
        values=_values(data.params, data.tags, varied),
        metrics=dict(data.metrics),
        tags=dict(data.tags),
        seconds=(info.end_time - info.start_time) / 1000
        if info.end_time and info.status != "RUNNING"
        else None,
    )


def _values(
    params: dict[str, str], tags: dict[str, str], varied: tuple[str, ...]
) -> dict[str, str]:
    """A run's varied settings. A reference has no params, but its tags say which teacher and prompt set it stands for.

    A variant is a bundle of settings by name: a param of the trial or, where it is none, a tag.
    """
    told = {
        "anchors.prompt_set": tags.get("prompt_set"),
        "teacher.model": tags.get("teacher"),
        "variant": tags.get("variant"),
    }
    found = {key: params.get(key, told.get(key)) for key in varied}
    return {key: value for key, value in found.items() if value not in (None, VARIED)}


def _best_first(rows: Iterable[Row], metric: str) -> tuple[Row, ...]:
    return tuple(sorted(rows, key=lambda row: (-row.metrics.get(metric, float("-inf")), row.name)))

"""A sweep in MLflow: a parent run, one child a trial, one level. Only the driver writes: sqlite takes one writer."""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Run

from beamclip.config import Experiment, Sweep, UserError, first_line, with_values
from beamclip.stores.paths import settings_text
from beamclip.tracking import serialize as entries
from beamclip.tracking.client import (
    connect,
    default_artifacts,
    find_or_create_experiment,
    impatient,
    search_all,
)
from beamclip.tracking.serialize import Point, run_name

# Writing into runs by their ids, and remembering which are still running.


Status = Literal["FINISHED", "FAILED", "KILLED"]


class RunWriter:
    """One client, many runs; MLflow's fluent "active run" is never used."""

    def __init__(self, client: MlflowClient) -> None:
        self.client = client
        self.running: set[str] = set()

    def start(self, run_id: str, params: Mapping[str, str]) -> None:
        """RUNNING, with the params it lacks: they never change, but a kill may have come before they were written."""
        data = self.client.get_run(run_id).data
        missing = {key: value for key, value in params.items() if key not in data.params}
        for batch in entries.param_batches(missing):
            self.client.log_batch(run_id, params=batch)
        if "beamclip.error" in data.tags:
            self.client.delete_tag(run_id, "beamclip.error")
        self.client.update_run(run_id, status="RUNNING")
        self.running.add(run_id)

    def log(
        self, run_id: str, metrics: Mapping[str, float], step: int, history: Iterable[Point] = ()
    ) -> None:
        """Points in lots; NaN and inf are left out, and a tag says where the first of this call was."""
        now = int(time.time() * 1000)
        finite, others = entries.split_finite(
            [*history, *((key, value, step, now) for key, value in metrics.items())]
        )
        for batch in entries.metric_batches(finite):
            self.client.log_batch(run_id, metrics=batch)
        if others:
            key, value, at, _ = others[0]
            self.client.set_tag(run_id, "beamclip.non_finite", f"{key} was {value} at step {at}")

    def end(self, run_id: str, status: Status, error: str | None = None) -> None:
        """The run's last word, and the error that ended it."""
        if error:
            self.client.set_tag(run_id, "beamclip.error", error[: entries.TAG_LENGTH])
        self.client.set_terminated(run_id, status)
        self.running.discard(run_id)


Tags = Mapping[str, str]
_log = logging.getLogger(__name__)
_PARENT = "mlflow.parentRunId"


class SweepTracker:
    """Writes one sweep. Open it with `SweepTracker.open`; as a context manager it closes itself with a true status.

    Every method that takes a `trial_id` wants one that `trial` was called with before (`KeyError` otherwise), but for
    `is_over`.
    """

    def __init__(
        self, client: MlflowClient, experiment_id: str, parent: Run, base: Experiment, tags: Tags
    ) -> None:
        self.client, self.experiment_id, self.run_id = (
            client,
            experiment_id,
            str(parent.info.run_id),
        )
        self._writer = RunWriter(client)
        self._base, self._tags = base, dict(tags)
        self._trials: dict[str, str] = {}
        self._references: dict[str, str] = {}
        for child in search_all(client, experiment_id, f"tags.`{_PARENT}` = '{self.run_id}'"):
            self._remember(child)

    @classmethod
    def open(
        cls,
        uri: str,
        artifact_root: str | None,
        sweep: Sweep,
        base: Experiment,
        sweep_id: str,
        resume: bool = False,
        tags: Tags | None = None,
    ) -> Self:
        """Begin a sweep's parent run, or with `resume` go on in the one that has this `sweep_id`.

        Args:
            artifact_root: where a new experiment keeps artifacts; None: beside a sqlite file, else the server's choice.
            tags: win over those worked out from `base`, and are copied to every child.

        Raises:
            UserError: the URI can't be used, or the sweep is there already and `resume` is False.
        """
        client = connect(uri)
        root = artifact_root or default_artifacts(uri, sweep.name)
        experiment_id = find_or_create_experiment(client, sweep.name, root)
        shared = entries.sweep_tags(sweep, base, sweep_id) | dict(tags or {})
        parent = _find_parent(client, experiment_id, sweep.name, sweep_id, resume)
        parent = parent or client.create_run(
            experiment_id, tags=shared | {"kind": "sweep"}, run_name=sweep_id
        )
        tracker = cls(client, experiment_id, parent, base, shared)
        tracker._writer.start(tracker.run_id, entries.params(base) | entries.space_params(sweep))
        client.log_text(tracker.run_id, settings_text(base), "config.yaml")
        return tracker

    def trial(
        self,
        trial_id: str,
        values: Mapping[str, Any],
        experiment: Experiment | None = None,
        tags: Tags | None = None,
    ) -> str:
        """A trial starts, or goes on after a resume, then in the same run. Returns the run id.

        Args:
            values: the varied dotted keys; they name the run.
            experiment: the trial's resolved config; default the base with `values`.
        """
        experiment = experiment or with_values(self._base, values)
        if trial_id not in self._trials:
            described = entries.describe(experiment).items()
            own = {
                tag: value for tag, value in described if self._tags[tag] == entries.VARIED
            } | dict(tags or {})
            self._child(run_name(values), own | {"kind": "trial", "beamclip.trial_id": trial_id})
        variant = {"variant": str(values["variant"])} if "variant" in values else {}
        self._writer.start(self._trials[trial_id], entries.params(experiment) | variant)
        return self._trials[trial_id]

    def trial_metrics(
        self, trial_id: str, metrics: Mapping[str, float], step: int, history: Iterable[Point] = ()
    ) -> None:
        """Write metrics at `step`, now, and `history` (key, value, step, Unix ms). NaN and inf are left out, with a tag."""
        self._writer.log(self._trials[trial_id], metrics, step, history)

    def trial_artifact(self, trial_id: str, path: str | Path, folder: str | None = None) -> None:
        """Upload a file, or everything in a folder, into the trial's run (below `folder` there)."""
        upload = self.client.log_artifacts if Path(path).is_dir() else self.client.log_artifact
        upload(self._trials[trial_id], str(path), folder)

    def trial_finished(self, trial_id: str, status: Status, error: str | None = None) -> None:
        """End a trial's run with what became of it; `error` is kept as the tag `beamclip.error`."""
        self._writer.end(self._trials[trial_id], status, error)

    def is_over(self, trial_id: str) -> bool:
        """Whether how a trial ended is written. A run that is KILLED was left by a sweep that was interrupted."""
        run_id = self._trials.get(trial_id)
        return run_id is not None and self.client.get_run(run_id).info.status in (
            "FINISHED",
            "FAILED",
        )

    def reference(
        self, kind: Literal["untrained", "teacher"], tags: Tags, metrics: Mapping[str, float]
    ) -> str:
        """A row beside the trials, once a kind, dataset, teacher, student and prompt set. Returns its run id."""
        described = self._tags | dict(tags)
        key = " | ".join(
            [kind, *(described[tag] for tag in ("dataset", "teacher", "student", "prompt_set"))]
        )
        if key not in self._references:
            self._child(
                kind, {**tags, "method": kind, "kind": "reference", "beamclip.reference": key}
            )
        run_id = self._references[key]
        if self.client.get_run(run_id).info.status != "FINISHED":
            self._writer.log(run_id, metrics, step=0)
            self._writer.end(run_id, "FINISHED")
        return run_id

    def tag_once(self, tags: Tags) -> None:
        """Tag the sweep itself, not its children; a tag that is there already stays as it is."""
        there = self.client.get_run(self.run_id).data.tags
        for name, value in tags.items():
            if name not in there:
                self.client.set_tag(self.run_id, name, value)

    def log_figure(self, figure: Figure, name: str) -> None:
        """Keep a figure with the sweep, as `name` (with its ending, `.png`)."""
        self.client.log_figure(self.run_id, figure, name)

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Keep rows with the sweep, as CSV under `name`; writing it again replaces it."""
        self.client.log_text(self.run_id, entries.csv_text(rows), name)

    def discard(self) -> None:
        """Take back a sweep of which nothing was begun, so that it hides none that was."""
        with suppress(Exception):  # why it was not begun says more
            self.client.delete_run(self.run_id)
        self._writer.running.clear()

    def close(self, status: Status = "FINISHED") -> None:
        """End the sweep. Children still running become KILLED: nobody will finish them. Closing twice does nothing."""
        for run_id in self._writer.running - {self.run_id}:
            self._writer.end(run_id, "KILLED")
        if self._writer.running:
            self._writer.end(self.run_id, status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        interrupted = kind is not None and not issubclass(kind, Exception)
        try:
            with impatient() if interrupted else nullcontext():
                self.close("FINISHED" if kind is None else "KILLED" if interrupted else "FAILED")
        except Exception as failed:
            reason = f"how the sweep ended can't be written ({first_line(failed)})"
            if kind is None:
                raise UserError(
                    f"{reason}; mend the tracking server and go on with --resume"
                ) from None
            _log.warning("beamclip: %s.", reason)  # what is on its way says more

    def _child(self, name: str, tags: Tags) -> None:
        tags = self._tags | {_PARENT: self.run_id} | dict(tags)
        self._remember(self.client.create_run(self.experiment_id, tags=tags, run_name=name))

    def _remember(self, child: Run) -> None:
        tags, run_id = child.data.tags, str(child.info.run_id)
        if "beamclip.trial_id" in tags:
            self._trials[tags["beamclip.trial_id"]] = run_id
        elif "beamclip.reference" in tags:
            self._references[tags["beamclip.reference"]] = run_id
        if child.info.status == "RUNNING":
            self._writer.running.add(run_id)


def _find_parent(
    client: MlflowClient, experiment_id: str, name: str, sweep_id: str, resume: bool
) -> Run | None:
    found = search_all(
        client, experiment_id, f"tags.kind = 'sweep' and tags.`beamclip.sweep_id` = '{sweep_id}'"
    )
    if found and not resume:
        raise UserError(
            f"sweep {sweep_id} is in MLflow experiment {name} already; go on with --resume or rename it"
        )
    return found[0] if found else None

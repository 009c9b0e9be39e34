"""Write a sweep to MLflow: a run for the sweep, with one child run for each trial.

Only the driver writes, because sqlite allows one writer at a time.
"""

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
from beamclip.stores.absolute import settings_text
from beamclip.stores.status import RunStatus
from beamclip.tracking import serialize
from beamclip.tracking.client import (
    connect,
    default_artifact_root,
    fail_fast,
    find_or_create_experiment,
    search_all,
)
from beamclip.tracking.serialize import MetricPoint

Tags = Mapping[str, str]
_PARENT = "mlflow.parentRunId"
_log = logging.getLogger(__name__)


class RunWriter:
    """Writes to runs by their ids, and remembers which are running.

    MLflow's fluent "active run" is never used.
    """

    def __init__(self, client: MlflowClient) -> None:
        self.client = client
        self.running: set[str] = set()

    def start(self, run_id: str, params: Mapping[str, str]) -> None:
        """Mark a run as running and write the params it lacks.

        Params never change, but an interrupted process may not have written all of them.
        """
        data = self.client.get_run(run_id).data
        missing = {key: value for key, value in params.items() if key not in data.params}
        for batch in serialize.param_batches(missing):
            self.client.log_batch(run_id, params=batch)
        if "beamclip.error" in data.tags:
            self.client.delete_tag(run_id, "beamclip.error")
        self.client.update_run(run_id, status="RUNNING")
        self.running.add(run_id)

    def log(
        self,
        run_id: str,
        metrics: Mapping[str, float],
        step: int,
        history: Iterable[MetricPoint] = (),
    ) -> None:
        """Write metrics; NaN and inf are left out, and the first of them goes into a tag."""
        now = int(time.time() * 1000)
        points = [*history, *((key, value, step, now) for key, value in metrics.items())]
        finite, others = serialize.split_finite(points)
        for batch in serialize.metric_batches(finite):
            self.client.log_batch(run_id, metrics=batch)
        if others:
            key, value, point_step, _ = others[0]
            message = f"{key} was {value} at step {point_step}"
            self.client.set_tag(run_id, "beamclip.non_finite", message)

    def end(self, run_id: str, status: RunStatus, error: str | None = None) -> None:
        """Set a run's final status, and the error that ended it as a tag."""
        if error:
            self.client.set_tag(run_id, "beamclip.error", error[: serialize.MAX_TAG_LENGTH])
        self.client.set_terminated(run_id, status)
        self.running.discard(run_id)


class SweepTracker:
    """The MLflow runs of one sweep. Create it with `SweepTracker.open`.

    As a context manager it sets the sweep's final status. Methods that take a `trial_id` raise
    KeyError unless `start_trial` was called for it, except for `has_ended`.

    Attributes:
        client: of the tracking server.
        experiment_id: of the MLflow experiment, which has the sweep's name.
        run_id: of the sweep's own run.
    """

    def __init__(
        self, client: MlflowClient, experiment_id: str, parent: Run, base: Experiment, tags: Tags
    ) -> None:
        self.client = client
        self.experiment_id = experiment_id
        self.run_id = str(parent.info.run_id)
        self._writer = RunWriter(client)
        self._base = base
        self._tags = dict(tags)
        self._trials: dict[str, str] = {}
        self._references: dict[str, str] = {}
        for child in search_all(client, experiment_id, f"tags.`{_PARENT}` = '{self.run_id}'"):
            self._remember(child)

    @classmethod
    def open(  # noqa: PLR0913
        cls,
        uri: str,
        artifact_root: str | None,
        sweep: Sweep,
        base: Experiment,
        sweep_id: str,
        *,
        resume: bool = False,
        tags: Tags | None = None,
    ) -> Self:
        """Start a sweep's run, or with `resume` continue the run of this `sweep_id`.

        Args:
            uri: tracking URI.
            artifact_root: folder of artifacts, used if the MLflow experiment is created; None is
                next to a sqlite file, or a server's own default.
            sweep: its name is that of the MLflow experiment.
            base: experiment that trials vary.
            sweep_id: unique id of the sweep.
            resume: continue the sweep's run if there is one.
            tags: override those worked out from `base`, and are copied to all children.

        Raises:
            UserError: the URI can't be used, or the sweep exists and `resume` is False.
        """
        client = connect(uri)
        root = artifact_root or default_artifact_root(uri, sweep.name)
        experiment_id = find_or_create_experiment(client, sweep.name, root)
        shared = serialize.sweep_tags(sweep, base, sweep_id) | dict(tags or {})
        parent = _find_sweep_run(client, experiment_id, sweep_id)
        if parent is not None and not resume:
            raise UserError(
                f"sweep {sweep_id} is in MLflow experiment {sweep.name} already; "
                "continue it with --resume, or rename it"
            )
        if parent is None:
            parent_tags = shared | {"kind": "sweep"}
            parent = client.create_run(experiment_id, tags=parent_tags, run_name=sweep_id)
        tracker = cls(client, experiment_id, parent, base, shared)
        params = serialize.settings_params(base) | serialize.space_params(sweep)
        tracker._writer.start(tracker.run_id, params)
        client.log_text(tracker.run_id, settings_text(base), "config.yaml")
        return tracker

    def start_trial(
        self,
        trial_id: str,
        values: Mapping[str, Any],
        experiment: Experiment | None = None,
        tags: Tags | None = None,
    ) -> str:
        """Start a trial's run, or after a resume continue it.

        Args:
            trial_id: unique id of the trial.
            values: the varied dotted settings, which name the run.
            experiment: the trial's resolved settings; default the base with `values`.
            tags: further tags of the run.

        Returns:
            The run's id.
        """
        experiment = experiment or with_values(self._base, values)
        if trial_id not in self._trials:
            # The other tags are copied from the sweep.
            trial_tags = {
                tag: value
                for tag, value in serialize.describe(experiment).items()
                if self._tags[tag] == serialize.VARIED
            }
            trial_tags |= dict(tags or {})
            trial_tags |= {"kind": "trial", "beamclip.trial_id": trial_id}
            self._create_child(serialize.run_name(values), trial_tags)
        params = serialize.settings_params(experiment)
        if "variant" in values:
            params["variant"] = str(values["variant"])
        self._writer.start(self._trials[trial_id], params)
        return self._trials[trial_id]

    def log_trial_metrics(
        self,
        trial_id: str,
        metrics: Mapping[str, float],
        step: int,
        history: Iterable[MetricPoint] = (),
    ) -> None:
        """Write a trial's metrics. NaN and inf are left out, with a tag.

        Args:
            trial_id: id of the trial.
            metrics: written at `step`, with the current time.
            step: of `metrics`, the epoch.
            history: further points with their own steps and times.
        """
        self._writer.log(self._trials[trial_id], metrics, step, history)

    def log_trial_artifact(
        self, trial_id: str, path: str | Path, artifact_path: str | None = None
    ) -> None:
        """Upload a file, or all files of a folder, to the folder `artifact_path` of a trial."""
        upload = self.client.log_artifacts if Path(path).is_dir() else self.client.log_artifact
        upload(self._trials[trial_id], str(path), artifact_path)

    def log_trial_text(self, trial_id: str, text: str, artifact_file: str) -> None:
        """Write a text into a file of a trial's run."""
        self.client.log_text(self._trials[trial_id], text, artifact_file)

    def end_trial(self, trial_id: str, status: RunStatus, error: str | None = None) -> None:
        """Set the final status of a trial's run, and its error as the tag `beamclip.error`."""
        self._writer.end(self._trials[trial_id], status, error)

    def has_ended(self, trial_id: str) -> bool:
        """Return whether a trial's run is finished or failed; a KILLED run was interrupted."""
        run_id = self._trials.get(trial_id)
        if run_id is None:
            return False
        return self.client.get_run(run_id).info.status in ("FINISHED", "FAILED")

    def log_reference(
        self, kind: Literal["untrained", "teacher"], tags: Tags, metrics: Mapping[str, float]
    ) -> str:
        """Write a reference run next to the trials, unless it exists.

        There is one for each kind, dataset, teacher, student and prompt set.

        Args:
            kind: of the reference.
            tags: in which the reference differs from the sweep.
            metrics: of the reference.

        Returns:
            The run's id.
        """
        described = self._tags | dict(tags)
        parts = [described[tag] for tag in ("dataset", "teacher", "student", "prompt_set")]
        key = " | ".join([kind, *parts])
        if key not in self._references:
            reference_tags = {"method": kind, "kind": "reference", "beamclip.reference": key}
            self._create_child(kind, dict(tags) | reference_tags)
        run_id = self._references[key]
        if self.client.get_run(run_id).info.status != "FINISHED":
            self._writer.log(run_id, metrics, step=0)
            self._writer.end(run_id, "FINISHED")
        return run_id

    def set_missing_tags(self, tags: Tags) -> None:
        """Set tags of the sweep's own run that it doesn't have yet."""
        existing = self.client.get_run(self.run_id).data.tags
        for name, value in tags.items():
            if name not in existing:
                self.client.set_tag(self.run_id, name, value)

    def log_figure(self, figure: Figure, name: str) -> None:
        """Write a figure to the sweep's run; the ending of `name` decides the format."""
        self.client.log_figure(self.run_id, figure, name)

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Write rows to the sweep's run as a CSV file, replacing an earlier one."""
        self.client.log_text(self.run_id, serialize.csv_text(rows), name)

    def delete(self) -> None:
        """Delete the run of a sweep that never began, so that it doesn't count as the latest."""
        # The error that kept the sweep from beginning matters more than one here.
        with suppress(Exception):
            self.client.delete_run(self.run_id)
        self._writer.running.clear()

    def close(self, status: RunStatus = "FINISHED") -> None:
        """Set the sweep's final status, and KILLED for trials that are still running.

        Calling it again does nothing.
        """
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
        status: RunStatus = "FINISHED"
        if kind is not None:
            status = "KILLED" if interrupted else "FAILED"
        try:
            with fail_fast() if interrupted else nullcontext():
                self.close(status)
        except Exception as close_error:
            reason = f"the sweep's final status can't be written ({first_line(close_error)})"
            if kind is None:
                raise UserError(
                    f"{reason}; fix the tracking server and continue with --resume"
                ) from None
            # The error that ended the sweep matters more.
            _log.warning("beamclip: %s.", reason)

    def _create_child(self, name: str, tags: Tags) -> None:
        all_tags = self._tags | {_PARENT: self.run_id} | dict(tags)
        self._remember(self.client.create_run(self.experiment_id, tags=all_tags, run_name=name))

    def _remember(self, child: Run) -> None:
        tags = child.data.tags
        run_id = str(child.info.run_id)
        if "beamclip.trial_id" in tags:
            self._trials[tags["beamclip.trial_id"]] = run_id
        elif "beamclip.reference" in tags:
            self._references[tags["beamclip.reference"]] = run_id
        if child.info.status == "RUNNING":
            self._writer.running.add(run_id)


def _find_sweep_run(client: MlflowClient, experiment_id: str, sweep_id: str) -> Run | None:
    condition = f"tags.kind = 'sweep' and tags.`beamclip.sweep_id` = '{sweep_id}'"
    runs = search_all(client, experiment_id, condition)
    return runs[0] if runs else None

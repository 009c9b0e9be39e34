"""Write a sweep to MLflow: a parent run for the sweep, and a child run for each trial.

Only the driver process writes, because sqlite allows one writer at a time.
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
    """Writes to MLflow runs by their ids.

    Several trials run at once, so MLflow's fluent API with its one active run is not used.

    Attributes:
        client: client of the tracking server.
        running: ids of the runs that were started and have not ended.
    """

    def __init__(self, client: MlflowClient) -> None:
        self.client = client
        self.running: set[str] = set()

    def start(self, run_id: str, params: Mapping[str, str]) -> None:
        """Set a run's status to RUNNING and write the params that it doesn't have yet."""
        # A resumed run has some or all of its params: an interrupted process may not have written
        # all. MLflow refuses to change a param.
        data = self.client.get_run(run_id).data
        missing = {key: value for key, value in params.items() if key not in data.params}
        for batch in serialize.param_batches(missing):
            self.client.log_batch(run_id, params=batch)
        # The error of an earlier attempt.
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
        """Write metrics at a step, and further points with their own steps and times.

        NaN and inf are not written as metrics. The first such point is written to the tag
        `beamclip.non_finite`.
        """
        now = int(time.time() * 1000)
        points = list(history)
        for key, value in metrics.items():
            points.append((key, value, step, now))
        finite, others = serialize.split_finite(points)
        for batch in serialize.metric_batches(finite):
            self.client.log_batch(run_id, metrics=batch)
        if others:
            key, value, point_step, _ = others[0]
            message = f"{key} was {value} at step {point_step}"
            self.client.set_tag(run_id, "beamclip.non_finite", message)

    def end(self, run_id: str, status: RunStatus, error: str | None = None) -> None:
        """Set a run's final status, and write the error that ended it to `beamclip.error`."""
        if error:
            self.client.set_tag(run_id, "beamclip.error", error[: serialize.MAX_TAG_LENGTH])
        self.client.set_terminated(run_id, status)
        self.running.discard(run_id)


class SweepTracker:
    """Writes the MLflow runs of one sweep. Create it with `SweepTracker.open`.

    As a context manager it sets the sweep's final status on exit. The methods that take a
    `trial_id`, except `start_trial` and `has_ended`, raise KeyError if that trial has no run yet.

    Attributes:
        client: client of the tracking server.
        experiment_id: id of the MLflow experiment, which has the sweep's name.
        run_id: id of the sweep's own run, the parent of all others.
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
        # Run ids by trial id, and by the tag `beamclip.reference`. Those of a resumed sweep exist
        # already.
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
        """Start a sweep's run, or continue it if `resume` is set.

        Args:
            uri: MLflow tracking URI.
            artifact_root: folder of artifacts if the MLflow experiment is created; None for a
                folder next to a sqlite file, or for a server's own default.
            sweep: the sweep; the MLflow experiment has its name.
            base: settings that all trials share.
            sweep_id: unique id of the sweep.
            resume: continue the sweep's run if it exists.
            tags: tags of the sweep's run and all its children; they override those derived from
                `base`.

        Raises:
            UserError: the URI can't be used, or the sweep exists and `resume` is False.
        """
        # Find or create the parent run.
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

        # Write its settings.
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
        """Start a trial's run, or continue it after a resume.

        Args:
            trial_id: unique id of the trial.
            values: the trial's value of each varied setting, by dotted key; they name the run.
            experiment: the trial's resolved settings; default: the base with `values`.
            tags: further tags of the run.

        Returns:
            The run's id.
        """
        experiment = experiment or with_values(self._base, values)
        if trial_id not in self._trials:
            # Only what differs between trials: `_create_child` copies the sweep's other tags.
            trial_tags = {
                tag: value
                for tag, value in serialize.describe(experiment).items()
                if self._tags[tag] == serialize.VARIED
            }
            trial_tags |= dict(tags or {})
            trial_tags |= {"kind": "trial", "beamclip.trial_id": trial_id}
            self._create_child(serialize.run_name(values), trial_tags)
        params = serialize.settings_params(experiment)
        # A variant is a dimension of the sweep, not a setting of the experiment.
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
            metrics: metric key -> value, written with the current time.
            step: step of `metrics`: the epoch.
            history: further points with their own steps and times.
        """
        self._writer.log(self._trials[trial_id], metrics, step, history)

    def log_trial_artifact(
        self, trial_id: str, path: str | Path, artifact_path: str | None = None
    ) -> None:
        """Upload a file, or all files of a folder, to a trial's run.

        Args:
            trial_id: id of the trial.
            path: local file or folder.
            artifact_path: folder among the run's artifacts; default: their top level.
        """
        upload = self.client.log_artifacts if Path(path).is_dir() else self.client.log_artifact
        upload(self._trials[trial_id], str(path), artifact_path)

    def log_trial_text(self, trial_id: str, text: str, artifact_file: str) -> None:
        """Write a text as an artifact of a trial's run."""
        self.client.log_text(self._trials[trial_id], text, artifact_file)

    def end_trial(self, trial_id: str, status: RunStatus, error: str | None = None) -> None:
        """Set the final status of a trial's run, and its error as the tag `beamclip.error`."""
        self._writer.end(self._trials[trial_id], status, error)

    def has_ended(self, trial_id: str) -> bool:
        """Return True if a trial's run is FINISHED or FAILED. A KILLED run was interrupted."""
        run_id = self._trials.get(trial_id)
        if run_id is None:
            return False
        return self.client.get_run(run_id).info.status in ("FINISHED", "FAILED")

    def log_reference(
        self, kind: Literal["untrained", "teacher"], tags: Tags, metrics: Mapping[str, float]
    ) -> str:
        """Write a reference run as a child of the sweep's run, unless it exists.

        There is one run for each kind, dataset, teacher, student and prompt set.

        Args:
            kind: kind of the reference.
            tags: tags whose values differ from the sweep's.
            metrics: metric key -> value.

        Returns:
            The run's id.
        """
        all_tags = self._tags | dict(tags)
        parts = [all_tags[tag] for tag in ("dataset", "teacher", "student", "prompt_set")]
        key = " | ".join([kind, *parts])
        if key not in self._references:
            reference_tags = {"method": kind, "kind": "reference", "beamclip.reference": key}
            self._create_child(kind, dict(tags) | reference_tags)
        run_id = self._references[key]
        # An interrupted sweep may have created the run without its metrics.
        if self.client.get_run(run_id).info.status != "FINISHED":
            self._writer.log(run_id, metrics, step=0)
            self._writer.end(run_id, "FINISHED")
        return run_id

    def set_missing_tags(self, tags: Tags) -> None:
        """Set those tags that the sweep's own run doesn't have yet."""
        existing = self.client.get_run(self.run_id).data.tags
        for name, value in tags.items():
            if name not in existing:
                self.client.set_tag(self.run_id, name, value)

    def log_figure(self, figure: Figure, name: str) -> None:
        """Write a figure to the sweep's run; the suffix of `name` decides the format."""
        self.client.log_figure(self.run_id, figure, name)

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Write rows to the sweep's run as a CSV file; an existing file is replaced."""
        self.client.log_text(self.run_id, serialize.csv_text(rows), name)

    def delete(self) -> None:
        """Delete the run of a sweep that failed to start, so that `compare` does not find it."""
        # The error that kept the sweep from starting matters more than one in here.
        with suppress(Exception):
            self.client.delete_run(self.run_id)
        self._writer.running.clear()

    def close(self, status: RunStatus = "FINISHED") -> None:
        """Set the sweep's final status, and KILLED for trials that are still running.

        A second call does nothing.
        """
        for run_id in self._writer.running - {self.run_id}:
            self._writer.end(run_id, "KILLED")
        # Only the sweep's own run is left, or none if it has ended already.
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
        # KeyboardInterrupt and SystemExit are no subclasses of Exception.
        interrupted = kind is not None and not issubclass(kind, Exception)
        status: RunStatus = "FINISHED"
        if kind is not None:
            status = "KILLED" if interrupted else "FAILED"
        try:
            # After Ctrl-C the process should not wait for MLflow's retries.
            with fail_fast() if interrupted else nullcontext():
                self.close(status)
        except Exception as close_error:
            reason = f"the sweep's final status can't be written ({first_line(close_error)})"
            if kind is None:
                raise UserError(
                    f"{reason}; fix the tracking server and continue with --resume"
                ) from None
            # The error that ended the sweep matters more, so only warn.
            _log.warning("beamclip: %s.", reason)

    def _create_child(self, name: str, tags: Tags) -> None:
        """Create a child of the sweep's run, with the sweep's tags where `tags` has no others."""
        all_tags = self._tags | {_PARENT: self.run_id} | dict(tags)
        self._remember(self.client.create_run(self.experiment_id, tags=all_tags, run_name=name))

    def _remember(self, child: Run) -> None:
        """Keep the id of a child run, so that it is found by its trial or reference."""
        tags = child.data.tags
        run_id = str(child.info.run_id)
        if "beamclip.trial_id" in tags:
            self._trials[tags["beamclip.trial_id"]] = run_id
        elif "beamclip.reference" in tags:
            self._references[tags["beamclip.reference"]] = run_id
        # Also runs that a killed driver left behind: `close` then ends them.
        if child.info.status == "RUNNING":
            self._writer.running.add(run_id)


def _find_sweep_run(client: MlflowClient, experiment_id: str, sweep_id: str) -> Run | None:
    """Return the sweep's own run, or None if it does not exist."""
    condition = f"tags.kind = 'sweep' and tags.`beamclip.sweep_id` = '{sweep_id}'"
    runs = search_all(client, experiment_id, condition)
    return runs[0] if runs else None

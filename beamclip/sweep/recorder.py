"""Record what happens to a sweep's trials, in MLflow and on the progress bar."""

import json
import tempfile
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from beamclip.config import UserError, first_line, trial_count, trial_experiment
from beamclip.distributed.listener import RestoredTrial
from beamclip.stores.absolute import settings_text
from beamclip.stores.moved_places import with_moved_places
from beamclip.stores.paths import asset_key, fetch_files
from beamclip.stores.status import RunStatus
from beamclip.stores.sweep_record import SweepRecord
from beamclip.sweep.asset_facts import AssetFacts
from beamclip.sweep.progress import ProgressBars
from beamclip.sweep.retry_queue import RetryQueue

# Only a trial's last report has it, the one of the evaluation.
_TEST_METRIC = "linear_probe/test_top1"
# Seconds to wait for the tracker after an interruption.
_INTERRUPTED_TIMEOUT = 10.0
# What is uploaded from a trial's checkpoint. The rest of it is only needed to resume the trial.
_FILES = ("student.safetensors", "probe.safetensors", "evaluation.json", "predictions.safetensors")


class TrialTracker(Protocol):
    """The methods of `beamclip.tracking.SweepTracker` that record trials.

    A protocol, so that this module does not import MLflow.
    """

    def start_trial(
        self,
        trial_id: str,
        values: Mapping[str, Any],
        experiment: Any = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Start or continue a trial's run, and return the run's id."""

    def log_trial_metrics(
        self,
        trial_id: str,
        metrics: Mapping[str, float],
        step: int,
        history: Iterable[tuple[str, float, int, int]] = (),
    ) -> None:
        """Write a trial's metrics."""

    def log_trial_artifact(
        self, trial_id: str, path: str | Path, artifact_path: str | None = None
    ) -> None:
        """Upload a file to a trial's run."""

    def log_trial_text(self, trial_id: str, text: str, artifact_file: str) -> None:
        """Write a text into a file of a trial's run."""

    def end_trial(self, trial_id: str, status: RunStatus, error: str | None = None) -> None:
        """Set the final status of a trial's run."""

    def has_ended(self, trial_id: str) -> bool:
        """Return whether a trial's final status is written."""


class Recorder:
    """A `beamclip.distributed.listener.Listener` that writes to the tracker and moves the bar.

    Its methods only queue what happened. A thread writes the events of each trial in order, and
    retries what fails. Tune must not wait for the tracker, because a callback that takes seconds
    can block a trial forever (see docs/architecture.md).

    Args:
        record: the sweep, after its stores were built.
        tracker: writes the runs of the trials.
        bars: progress bars.
    """

    def __init__(self, record: SweepRecord, tracker: TrialTracker, bars: ProgressBars) -> None:
        self.record = record
        self.tracker = tracker
        self.bars = bars
        self._trials = trial_count(record.sweep)
        # The evaluation counts as one more epoch.
        self._steps_per_trial = record.base.optimizer.epochs + 1
        self._steps_done: dict[str, int] = {}
        self._queue = RetryQueue(bars.write)

    def on_restore(self, trials: Mapping[str, RestoredTrial]) -> None:
        """Count the trials that ended in earlier sessions, and write what the tracker lacks."""
        for trial_id, trial in trials.items():
            self._steps_done[trial_id] = self._steps_per_trial
            self._queue.put(trial_id, partial(self._write_restored, trial_id, trial))

    def on_trial_start(self, trial_id: str, values: Mapping[str, Any]) -> None:
        """Write the start of a trial, and count it next to the bar."""
        self._queue.put(trial_id, partial(self._write_start, trial_id, values))
        self._advance(trial_id, self._steps_done.get(trial_id, 0))
        self.bars.set_postfix(f"{len(self._steps_done)} of {self._trials} trials begun")

    def on_trial_result(self, trial_id: str, metrics: Mapping[str, Any]) -> None:
        """Write the metrics of an epoch or of the evaluation."""
        # The thread may write much later, but the points are dated now.
        now_ms = int(time.time() * 1000)
        self._queue.put(trial_id, partial(self._write_report, trial_id, dict(metrics), now_ms))
        steps_done = int(metrics.get("epoch", 0))
        if _TEST_METRIC in metrics:
            steps_done += 1
        self._advance(trial_id, steps_done)

    def on_trial_end(self, trial_id: str, status: RunStatus, error: str | None) -> None:
        """Write a trial's final status, and print its error."""
        self._queue.put(trial_id, partial(self.tracker.end_trial, trial_id, status, error))
        # The epochs that a trial stopped early has skipped count as done.
        self._advance(trial_id, self._steps_per_trial)
        if error:
            self.bars.write(f"trial {trial_id} failed: {error}")

    def close(self, ended: bool = True) -> None:
        """Wait until everything is written.

        Args:
            ended: whether the sweep ended by itself. After an interruption wait 10 s at most,
                because schedulers send SIGKILL soon, and print a warning instead of an error.

        Raises:
            UserError: the last attempt to write failed, too. The trials' checkpoints are kept.
        """
        error = self._queue.close(None if ended else _INTERRUPTED_TIMEOUT)
        if error is None:
            return
        message = (
            f"results can't be written any more: {first_line(error)}; "
            "fix the tracking server and continue with --resume"
        )
        if ended:
            raise UserError(message)
        self.bars.write(f"beamclip: WARNING: {message}")

    def _advance(self, trial_id: str, steps_done: int) -> None:
        self._steps_done[trial_id] = steps_done
        total = self._trials * self._steps_per_trial
        self.bars("epochs and probes", sum(self._steps_done.values()), total)

    def _write_restored(self, trial_id: str, trial: RestoredTrial) -> None:
        if self.tracker.has_ended(trial_id):
            return
        # The earlier session could not write the trial's end, and perhaps nothing of the trial.
        self._write_start(trial_id, trial.values)
        # Tune's timestamp of the report, in seconds.
        reported_at = trial.report.get("timestamp", time.time())
        self._write_report(trial_id, trial.report, int(1000 * reported_at))
        # Trials that Tune counts as ended may have given up, with a reason in their last report.
        failure = trial.report.get("failure")
        self.tracker.end_trial(trial_id, "FAILED" if failure else "FINISHED", failure)

    def _write_start(self, trial_id: str, values: Mapping[str, Any]) -> None:
        experiment = trial_experiment(self.record.sweep, self.record.base, values)
        facts = AssetFacts(self.record.assets[asset_key(experiment)])
        tags = {
            "data_key": facts.data_key,
            "teacher_fingerprint": facts.teacher_fingerprint,
            "anchors_hash": str(facts.anchors["hash"]),
        }
        self.tracker.start_trial(trial_id, values, experiment, tags)
        # To use the settings again, inputs are needed where they are now.
        settings = settings_text(with_moved_places(experiment, self.record.moved))
        self.tracker.log_trial_text(trial_id, settings, "config.yaml")
        self.tracker.log_trial_text(trial_id, json.dumps(facts.anchors, indent=1), "anchors.json")
        if facts.balance is not None:
            balance = json.dumps(facts.balance, indent=1)
            self.tracker.log_trial_text(trial_id, balance, "balance.json")

    def _write_report(self, trial_id: str, report: Mapping[str, Any], time_ms: int) -> None:
        # Tune adds entries of its own to a report, such as "pid". Only metrics have a slash.
        metrics = {
            key: float(value)
            for key, value in report.items()
            if "/" in key and isinstance(value, int | float)
        }
        history = [(key, value, step, time_ms) for key, value, step in report.get("history", ())]
        self.tracker.log_trial_metrics(trial_id, metrics, int(report.get("epoch", 0)), history)
        # The step, sample ids and settings of a loss that is not finite.
        if "evidence" in report:
            self.tracker.log_trial_text(trial_id, report["evidence"], "diverged.json")
        if _TEST_METRIC in report and report.get("checkpoint_path"):
            self._upload_files(trial_id, report["checkpoint_path"])

    def _upload_files(self, trial_id: str, checkpoint: str) -> None:
        """Copy student, probe and evaluation from a checkpoint into the trial's run.

        Checkpoints of earlier versions have no evaluation.
        """
        with tempfile.TemporaryDirectory() as temporary:
            files = fetch_files(self.record.folder, checkpoint, _FILES, Path(temporary))
            for file in files:
                self.tracker.log_trial_artifact(trial_id, file)
        if not files:
            self.bars.write(
                f"beamclip: WARNING: there is no student in {checkpoint}, "
                f"so MLflow keeps none of trial {trial_id}"
            )

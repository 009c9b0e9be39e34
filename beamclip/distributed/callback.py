"""Ray Tune's callback in the driver: it forwards the events of trials to the sweep's listener."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import ray.tune
from ray.tune.experiment import Trial

from beamclip.config import trial_experiment
from beamclip.config.renamed import current_names
from beamclip.distributed.listener import Listener, RestoredTrial
from beamclip.distributed.student_handoff import StudentHandoff
from beamclip.stores.status import RunStatus
from beamclip.stores.sweep_record import SweepRecord

FINAL_ERROR = "final"
"""Key of a report: the error that follows must not be retried."""


class SweepCallback(ray.tune.Callback):  # type: ignore[misc]
    """Forward the events of trials to a listener.

    Tune pickles the instance with the sweep's state and unpickles it on resume. What the callback
    talks to is therefore set on the class, anew in each session.
    """

    listener: Listener
    record: SweepRecord
    trial_slots: ClassVar[Any] = None
    """Handle of the `TrialSlots` actor of a resumed sweep; None in a sweep's first session."""
    started: ClassVar[set[str]] = set()
    """Ids of trials that started in this session."""
    ended: ClassVar[set[str] | None] = None
    """Ids of trials that ended in any session; None until Tune has reported the earlier ones."""
    failures: ClassVar[dict[str, str]] = {}
    """Reasons that trials gave for giving up. Tune counts these trials as terminated, so that
    `--resume` does not run them again."""

    @classmethod
    def connect(cls, listener: Listener, record: SweepRecord) -> None:
        """Forward the events of this sweep to this listener, and forget any earlier session."""
        cls.listener = listener
        cls.record = record
        cls.trial_slots = None
        cls.started = set()
        cls.ended = None
        cls.failures = {}

    @classmethod
    def on_restore(cls, trials: Mapping[str, RestoredTrial]) -> None:
        """Remember and forward the trials that ended in earlier sessions."""
        cls.ended = set(trials)
        cls.listener.on_restore(trials)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Report the trials of earlier sessions, in the first step."""
        if SweepCallback.ended is not None:
            return
        finished = [trial for trial in trials if trial.is_finished()]
        if self.record.sweep.variants:
            # Trials that start from the student of a finished trial wait for it again after a
            # resume. If it left no student, they must not wait forever.
            for trial in finished:
                self._mark_failed(trial)
        self.on_restore(
            {trial.trial_id: restored_trial(trial.config, trial.last_result) for trial in finished}
        )

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Forward the start of a trial, and reset its number of retries once a session."""
        if trial.trial_id not in self.started:
            self.started.add(trial.trial_id)
            # Failures of earlier sessions don't count.
            trial.max_failures = trial.num_failures + self.record.base.scaling.max_failures
        self.listener.on_trial_start(trial.trial_id, current_names(trial.config["values"]))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Forward a report, unless it only announces an error that must not be retried."""
        if FINAL_ERROR in result:
            # Tune would retry after any error.
            trial.max_failures = 0
            return
        if "failure" in result:
            self.failures[trial.trial_id] = str(result["failure"])
        self.listener.on_trial_result(trial.trial_id, result)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Forward the end of a trial that raised nothing; it may have reported a failure."""
        failure = self.failures.get(trial.trial_id)
        self._end(trial, "FAILED" if failure else "FINISHED", failure)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Forward the end of a trial that raised an error or was lost once too often."""
        self._mark_failed(trial)
        self._end(trial, "FAILED", last_error_line(trial))

    def _mark_failed(self, trial: Trial) -> None:
        experiment = trial_experiment(self.record.sweep, self.record.base, trial.config["values"])
        # Trials that wait for the student get the same storage error themselves.
        with contextlib.suppress(OSError):
            StudentHandoff(self.record.folder, experiment).mark_failed()

    def _end(self, trial: Trial, status: RunStatus, error: str | None) -> None:
        assert self.ended is not None
        self.ended.add(trial.trial_id)
        if self.trial_slots is not None:
            self.trial_slots.release.remote(trial.trial_id)
        self.listener.on_trial_end(trial.trial_id, status, error)


def restored_trial(config: Mapping[str, Any], report: Mapping[str, Any] | None) -> RestoredTrial:
    """Return a trial's values and its last report, from Tune's config and last result."""
    return RestoredTrial(current_names(config["values"]), dict(report or {}))


def last_error_line(trial: Trial) -> str:
    """Return the last line of a trial's error file, or "unknown" if there is none."""
    # `trial.get_error()` reads from the storage, where Tune copies the file after its callbacks.
    file = Path(trial.error_file) if trial.error_file else None
    text = file.read_text() if file and file.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "unknown"

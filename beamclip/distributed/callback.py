"""Forward the events of trials from Ray Tune to the sweep's listener, in the driver's process."""

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
"""Key of a report that announces an error which Tune must not retry."""


class SweepCallback(ray.tune.Callback):  # type: ignore[misc]
    """Forward the events of trials to a listener.

    Tune pickles the callback with the sweep's state and unpickles it on resume, so an instance
    would bring its attributes from an earlier session. `connect` sets them on the class instead.
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
    """Trial id -> reason, for trials that reported a failure instead of raising an error. Tune
    counts these trials as terminated, so `--resume` does not run them again."""

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
        """Forward the trials of earlier sessions, in the first step of this one."""
        # Only the first step finds None: `on_restore` sets it below.
        if SweepCallback.ended is not None:
            return
        # Tune calls no other hook for trials that had ended before it restored them.
        finished = [trial for trial in trials if trial.is_finished()]
        if self.record.sweep.variants:
            # A resume clears all failure marks. Set them again for finished trials without a
            # student, or the trials that start from these students would wait forever.
            for trial in finished:
                self._mark_failed(trial)
        self.on_restore(
            {trial.trial_id: restored_trial(trial.config, trial.last_result) for trial in finished}
        )

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Forward the start of a trial. Its first start in a session renews its retries."""
        if trial.trial_id not in self.started:
            self.started.add(trial.trial_id)
            # Tune counts failures over all sessions; those of earlier ones must not use up retries.
            trial.max_failures = trial.num_failures + self.record.base.scaling.max_failures
        self.listener.on_trial_start(trial.trial_id, current_names(trial.config["values"]))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Forward a report, unless it only announces an error that must not be retried."""
        if FINAL_ERROR in result:
            # The error follows this report. Tune would retry it like any other.
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
        """Forward the end of a trial that raised an error or has used up its retries."""
        # A trial whose process was lost could not mark itself.
        self._mark_failed(trial)
        self._end(trial, "FAILED", last_error_line(trial))

    def _mark_failed(self, trial: Trial) -> None:
        experiment = trial_experiment(self.record.sweep, self.record.base, trial.config["values"])
        # If the storage fails, trials that wait for the student raise that error themselves.
        with contextlib.suppress(OSError):
            StudentHandoff(self.record.folder, experiment).mark_failed()

    def _end(self, trial: Trial, status: RunStatus, error: str | None) -> None:
        # `on_step_begin` has run before.
        assert self.ended is not None
        self.ended.add(trial.trial_id)
        if self.trial_slots is not None:
            self.trial_slots.release.remote(trial.trial_id)
        self.listener.on_trial_end(trial.trial_id, status, error)


def restored_trial(config: Mapping[str, Any], report: Mapping[str, Any] | None) -> RestoredTrial:
    """Build a `RestoredTrial` from a trial's config and last result in Tune.

    Args:
        config: the trial's config; its `values` may have the settings' old names.
        report: the last result; None if the trial reported nothing.
    """
    return RestoredTrial(current_names(config["values"]), dict(report or {}))


def last_error_line(trial: Trial) -> str:
    """Return the last line of a trial's error file, or "unknown" if there is none."""
    # Read the local file. `trial.get_error()` reads the storage, to which Tune copies the file only
    # after its callbacks.
    if not trial.error_file or not Path(trial.error_file).exists():
        return "unknown"
    # A message may quote a file's bytes, or come from a process with another locale.
    text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    return lines[-1] if lines else "unknown"

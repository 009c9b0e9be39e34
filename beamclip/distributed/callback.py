"""What a sweep's one process hears of its trials from Ray Tune, told to a listener."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import ray.tune
from ray.tune.experiment import Trial

from beamclip.config import cell
from beamclip.distributed.student_handoff import StudentHandoff
from beamclip.stores.sweep_record import SweepRecord

Status = Literal["FINISHED", "FAILED", "KILLED"]
FINAL = "final"
"""In a report: the error that follows is final."""


class Listener(Protocol):
    """What the sweep's one process hears of its trials, in the order things happen."""

    def on_restore(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """These trials ended in an earlier session, with these last reports, and their `values`. Heard once, before anything else."""

    def started(self, trial_id: str, values: Mapping[str, Any]) -> None:
        """A trial starts, or goes on after a resume."""

    def reported(self, trial_id: str, metrics: Mapping[str, Any]) -> None:
        """A trial's epoch ended, or its evaluation did; the latter has `linear_probe/…`."""

    def ended(self, trial_id: str, status: Status, error: str | None) -> None:
        """A trial is over. FINISHED also where it was stopped early on purpose."""


class SweepCallback(ray.tune.Callback):  # type: ignore[misc]
    """Tune's callback, in the driver's process. Tune pickles it with the sweep's state, so what it talks to is set anew each time."""

    listener: Listener
    record: SweepRecord
    turns: ClassVar[Any] = None
    """The actor that says which restored trials may train; None in a sweep's first session."""
    begun: ClassVar[set[str]] = set()
    """Trials that have started in this session."""
    over: ClassVar[set[str] | None] = None
    """Trials that have ended, in an earlier session too; None until Tune has said which those are."""
    failures: ClassVar[dict[str, str]] = {}
    """Why runs said that they can't go on. To Tune these end as any other, and --resume does not try them again."""

    @classmethod
    def connect(cls, listener: Listener, record: SweepRecord) -> None:
        """Begin to relay to this listener what becomes of this sweep."""
        cls.listener, cls.record, cls.turns = listener, record, None
        cls.begun, cls.over, cls.failures = set(), None, {}

    @classmethod
    def on_restore(cls, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Remember and tell what an earlier session did."""
        cls.over = set(results)
        cls.listener.on_restore(results)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if SweepCallback.over is None:
            ended = [trial for trial in trials if trial.is_finished()]
            for trial in ended if self.record.sweep.variants else ():
                self._give_up(trial)  # whoever waits for it starts again, and it doesn't
            self.on_restore(
                {trial.trial_id: report_of(trial.last_result, trial.config) for trial in ended}
            )

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        if trial.trial_id not in self.begun:
            self.begun.add(trial.trial_id)
            trial.max_failures = trial.num_failures + retries(
                self.record
            )  # those of earlier sessions don't count
        self.listener.started(trial.trial_id, dict(trial.config["values"]))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if FINAL in result:
            trial.max_failures = 0  # Tune would try again after any error
            return
        if "failure" in result:
            self.failures[trial.trial_id] = str(result["failure"])
        self.listener.reported(trial.trial_id, result)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        failure = self.failures.get(trial.trial_id)
        self._end(trial, "FAILED" if failure else "FINISHED", failure)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        self._give_up(trial)
        self._end(trial, "FAILED", last_line(trial))

    def _give_up(self, trial: Trial) -> None:
        with contextlib.suppress(
            OSError
        ):  # an error of the storage's, which trials that wait there meet themselves
            StudentHandoff(
                self.record.folder,
                cell(self.record.sweep, self.record.base, trial.config["values"]),
            ).give_up()

    def _end(self, trial: Trial, status: Status, error: str | None) -> None:
        assert self.over is not None
        self.over.add(trial.trial_id)
        if self.turns is not None:
            self.turns.end.remote(trial.trial_id)
        self.listener.ended(trial.trial_id, status, error)


def report_of(result: Mapping[str, Any] | None, config: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's last report, with the values it was given."""
    return {**(result or {}), "values": dict(config["values"])}


def last_line(trial: Trial) -> str:
    """Why a trial failed, in a line."""
    # Not `trial.get_error()`: that looks into the storage, where Tune copies the file only after its callbacks.
    file = Path(trial.error_file) if trial.error_file else None
    text = file.read_text() if file and file.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "unknown"


def retries(record: SweepRecord) -> int:
    """How often a trial is started again after the process that waits for its training was lost."""
    return record.base.scaling.max_failures

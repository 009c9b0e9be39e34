"""Running a sweep's trials with Ray Tune, and telling a listener what happens."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import ray.tune
from ray.tune.experiment import Trial

from beamclip.config import Sweep, cell, start_of, trial_count, with_values
from beamclip.distributed.cluster import DRIVER_CPUS
from beamclip.distributed.handover import Handover
from beamclip.distributed.search import scheduler, search_algorithm, search_space
from beamclip.distributed.trial import run_trial
from beamclip.records import SweepRecord
from beamclip.storage import asset_key

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Listener(Protocol):
    """What the sweep's one process hears of its trials, in the order things happen."""

    def over_before(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """These trials ended in an earlier session, with these last reports, and their `values`. Heard once, before anything else."""

    def started(self, trial_id: str, values: Mapping[str, Any]) -> None:
        """A trial starts, or goes on after a resume."""

    def reported(self, trial_id: str, metrics: Mapping[str, Any]) -> None:
        """A trial's epoch ended, or its evaluation did; the latter has `linear_probe/…`."""

    def ended(self, trial_id: str, status: Status, error: str | None) -> None:
        """A trial is over. FINISHED also where it was stopped early on purpose."""


class _Relay(ray.tune.Callback):  # type: ignore[misc]
    """Tune's callback, in the driver's process. Tune pickles it with the sweep's state, so what it talks to is set anew each time."""

    listener: Listener
    over: ClassVar[set[str] | None] = None
    """Trials that have ended, in an earlier session too; None until Tune has said which those are."""
    failures: ClassVar[dict[str, str]] = {}
    """Why runs said that they can't go on. To Tune these end as any other, and --resume does not try them again."""

    @classmethod
    def connect(cls, listener: Listener) -> None:
        """Begin to relay to this listener."""
        cls.listener, cls.over, cls.failures = listener, None, {}

    @classmethod
    def over_before(cls, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Remember and tell what an earlier session did."""
        cls.over = set(results)
        cls.listener.over_before(results)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if _Relay.over is None:
            ended = [trial for trial in trials if trial.is_finished()]
            self.over_before({trial.trial_id: _report_of(trial.last_result, trial.config) for trial in ended})

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.listener.started(trial.trial_id, dict(trial.config["values"]))

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any) -> None:
        if "failure" in result:
            self.failures[trial.trial_id] = str(result["failure"])
        self.listener.reported(trial.trial_id, result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        failure = self.failures.get(trial.trial_id)
        self._end(trial, "FAILED" if failure else "FINISHED", failure)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._end(trial, "FAILED", last_line(trial))

    def _end(self, trial: Trial, status: Status, error: str | None) -> None:
        assert self.over is not None
        self.over.add(trial.trial_id)
        self.listener.ended(trial.trial_id, status, error)


def _report_of(result: Mapping[str, Any] | None, config: Mapping[str, Any]) -> dict[str, Any]:
    return {**(result or {}), "values": dict(config["values"])}


def last_line(trial: Trial) -> str:
    """Why a trial failed, in a line."""
    # Not `trial.get_error()`: that looks into the storage, where Tune copies the file only after its callbacks.
    file = Path(trial.error_file) if trial.error_file else None
    text = file.read_text() if file and file.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "unknown"


def trainable(record: SweepRecord) -> Callable[[dict[str, Any]], None]:
    """Tune's function for this sweep: resolves a trial's values into an experiment and its stores."""
    sweep, base, assets, folder = record.sweep, record.base, dict(record.assets), record.folder  # worked out here: a trial runs elsewhere

    def trial(config: dict[str, Any]) -> None:
        experiment, before = cell(sweep, base, config["values"]), start_of(sweep, base, config["values"])
        with Handover(folder, experiment) as handover:
            started = experiment if before is None else with_values(experiment, {"student.init": handover.wait_for(before)})
            config = {"experiment": started.model_dump_json(), "assets": assets[asset_key(experiment)], "folder": f"{folder}/trials"}
            handover.leave(run_trial(config))

    wrapped: Callable[[dict[str, Any]], None] = ray.tune.with_resources(trial, {"CPU": DRIVER_CPUS})
    return wrapped


def run_trials(record: SweepRecord, listener: Listener, concurrent: int, resume: bool) -> bool:
    """Run or go on with all trials of a sweep.

    Returns:
        True where it ended by itself, False where it was interrupted (its state is saved).
    """
    function = trainable(record)
    _Relay.connect(listener)
    if resume and ray.tune.Tuner.can_restore(f"{record.folder}/tune"):
        tuner = ray.tune.Tuner.restore(f"{record.folder}/tune", function, resume_unfinished=True, resume_errored=True)
    else:
        tuner = _new_tuner(function, record, concurrent)
    results = tuner.fit()  # after Ctrl-C it returns as if all was well
    if _Relay.over is not None:
        return len(_Relay.over) >= trial_count(record.sweep)
    by_itself: bool = results.num_terminated >= trial_count(record.sweep)  # where nothing was left to do, Tune takes no step
    if by_itself:
        last = [result.metrics for result in results if result.metrics and "config" in result.metrics]
        _Relay.over_before({metrics["trial_id"]: _report_of(metrics, metrics["config"]) for metrics in last})
    return by_itself


def _new_tuner(function: Callable[..., Any], record: SweepRecord, concurrent: int) -> ray.tune.Tuner:
    sweep: Sweep = record.sweep
    return ray.tune.Tuner(
        function,
        param_space={"values": search_space(sweep)},
        tune_config=ray.tune.TuneConfig(
            search_alg=search_algorithm(sweep, concurrent),
            scheduler=scheduler(sweep, record.base.optimiser.epochs),
            num_samples=1 if sweep.search == "grid" else sweep.trials,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,  # names made of parameters grow too long (ray#29586)
        ),
        run_config=ray.tune.RunConfig(name="tune", storage_path=record.folder, verbose=0, callbacks=[_Relay()]),
    )

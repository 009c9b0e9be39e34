"""Run the trials of a sweep with Ray Tune."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchAlgorithm, Searcher

from beamclip.config import (
    Choice,
    Sweep,
    Uniform,
    UserError,
    init_experiment,
    planned_values,
    trial_count,
    trial_experiment,
    with_values,
)
from beamclip.distributed.callback import FINAL_ERROR, SweepCallback, restored_trial
from beamclip.distributed.legacy import add_old_module_names
from beamclip.distributed.listener import Listener
from beamclip.distributed.student_handoff import StudentHandoff, clear_failure_marks
from beamclip.distributed.trainer import run_trial
from beamclip.stores.paths import asset_key, list_folder
from beamclip.stores.sweep_record import SweepRecord

EARLY_STOPPING_METRIC = "zero_shot/val_top1"
"""The one val metric that every epoch reports."""

_POLL_SECONDS = 1.0
# Resources of a trial driver. Drivers only wait, and on resume Tune starts them all at once, so
# they must not reserve CPUs, which the workers of the training trial need. Tune requires a
# non-empty request: 1 byte of memory.
_DRIVER_RESOURCES = {"memory": 1}


class TrialSlots:
    """Limits how many trials train at once. The driver of a resumed sweep starts it as an actor.

    Tune starts all trials that it restores at once, whatever its own limit.

    Args:
        count: number of trials that may train at once.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken: set[str] = set()

    def try_acquire(self, trial_id: str) -> bool:
        """Return True if this trial may train now. A trial that is retried keeps its slot."""
        # Don't count the trial's own slot: it may still have one from before the retry.
        if len(self._taken - {trial_id}) < self._count:
            self._taken.add(trial_id)
        return trial_id in self._taken

    def release(self, trial_id: str) -> None:
        """Free the slot of a trial that has ended, if it has one."""
        self._taken.discard(trial_id)


def start_trial_slots(name: str, count: int) -> Any:
    """Start a `TrialSlots` actor. It ends with the last reference to the returned handle."""
    return ray.remote(TrialSlots).options(name=name, num_cpus=0).remote(count)


def wait_for_slot(name: str) -> None:
    """Wait, inside a trial, until it may train. If the actor is lost, every trial may.

    Args:
        name: name of the `TrialSlots` actor.
    """
    try:
        slots = ray.get_actor(name)
        trial_id = ray.tune.get_context().get_trial_id()
        while not ray.get(slots.try_acquire.remote(trial_id)):
            time.sleep(_POLL_SECONDS)
    # get_actor raises ValueError if there is no such actor.
    except (ValueError, ray.exceptions.RayError):
        return


def search_space(sweep: Sweep) -> Any:
    """Return a sweep's space as Tune's search space.

    A grid is a single list of its combinations, so that trials start in the listed order.
    """
    if sweep.search == "grid":
        return ray.tune.grid_search(planned_values(sweep))
    return {key: _tune_domain(dimension) for key, dimension in sweep.space.items()}


def _tune_domain(dimension: Choice | Uniform) -> Any:
    if isinstance(dimension, Choice):
        return ray.tune.choice(list(dimension.values))
    if dimension.log:
        return ray.tune.loguniform(dimension.low, dimension.high)
    return ray.tune.uniform(dimension.low, dimension.high)


def search_algorithm(sweep: Sweep, concurrent: int) -> SearchAlgorithm | Searcher:
    """Return Tune's own grid or random search, or Optuna's TPE.

    Args:
        sweep: `search`, `seed` and `metric` are used.
        concurrent: number of trials that may run at once.

    Raises:
        UserError: Optuna is not installed.
    """
    if sweep.search != "optuna":
        return BasicVariantGenerator(max_concurrent=concurrent, random_state=sweep.seed)
    return ConcurrencyLimiter(_optuna_search(sweep), max_concurrent=concurrent)


def _optuna_search(sweep: Sweep) -> Searcher:
    from ray.tune.search.optuna import OptunaSearch

    class FinalReportSearch(OptunaSearch):  # type: ignore[misc]
        """Learns from the last report of each trial only.

        Ray's own class learns from every report. It would raise KeyError for the reports of epochs,
        which do not have `sweep.metric`.
        """

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            return None

    # Ray asserts that Optuna is installed.
    try:
        return FinalReportSearch(metric=sweep.metric, mode="max", seed=sweep.seed)
    except (ImportError, AssertionError):
        raise UserError(
            'search is optuna, which is not installed; run pip install "beamclip[optuna]"'
        ) from None


def scheduler(sweep: Sweep, epochs: int) -> TrialScheduler:
    """Return ASHA on the val metric of each epoch, or FIFO if the sweep has no `asha`.

    Args:
        sweep: `asha` is used.
        epochs: number of epochs of each trial.
    """
    if sweep.asha is None:
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="epoch",
        metric=EARLY_STOPPING_METRIC,
        mode="max",
        # ASHA stops a trial when it reports `max_t`, and the evaluation follows the last epoch's
        # report. So allow one more than the epochs.
        max_t=epochs + 1,
        # ASHA refuses a grace period above `max_t`.
        grace_period=min(sweep.asha.grace_epochs, epochs + 1),
        reduction_factor=sweep.asha.reduction_factor,
    )


def trainable(
    record: SweepRecord, slots_name: str | None = None
) -> Callable[[dict[str, Any]], None]:
    """Return Tune's trainable for a sweep.

    The trainable resolves a trial's values into an experiment and its stores. If the student starts
    from that of another trial, it waits for that trial. Then it trains.

    Args:
        record: the sweep.
        slots_name: name of the `TrialSlots` actor; None if Tune itself limits the trials.
    """
    # `trial` is pickled with the variables it uses and runs in another process. Read these from the
    # record here, so that the record itself need not be sent.
    sweep = record.sweep
    base = record.base
    assets = dict(record.assets)
    folder = record.folder

    # Tune knows the trainable by this function's name. If it were renamed, sweeps that were started
    # earlier could not be resumed.
    def trial(config: dict[str, Any]) -> None:
        values = config["values"]
        experiment = trial_experiment(sweep, base, values)
        predecessor = init_experiment(sweep, base, values)
        with _report_final_errors(), StudentHandoff(folder, experiment) as handoff:
            resolved = experiment
            if predecessor is not None:
                student = handoff.wait_for(predecessor)
                resolved = with_values(experiment, {"student.init": student})
            # Take a slot only after waiting for the predecessor, which may need one itself.
            if slots_name is not None:
                wait_for_slot(slots_name)
            checkpoint = run_trial(resolved, assets[asset_key(experiment)], f"{folder}/trials")
            handoff.publish(checkpoint)

    wrapped: Callable[[dict[str, Any]], None] = ray.tune.with_resources(trial, _DRIVER_RESOURCES)
    return wrapped


@contextlib.contextmanager
def _report_final_errors() -> Iterator[None]:
    """Report that an error is final, so that Tune does not retry the trial.

    Ray Train has already retried errors of the workers. A RayError is left to Tune: it means that
    a process was lost which Train can't restart, such as its own controller.
    """
    try:
        yield
    except ray.exceptions.RayError:
        raise
    except Exception:
        ray.tune.report({FINAL_ERROR: True})
        raise


def run_trials(record: SweepRecord, listener: Listener, concurrent: int, resume: bool) -> bool:
    """Run the trials of a sweep.

    Args:
        record: the sweep.
        listener: receives the events of the trials, in this process.
        concurrent: number of trials that may train at once.
        resume: continue from the state that Tune has saved, if any. Only trials that have not
            ended are run then.

    Returns:
        True if all trials have ended; False if the sweep was interrupted, with its state saved.
    """
    SweepCallback.connect(listener, record)
    if resume and _has_saved_trials(f"{record.folder}/tune"):
        tuner = _restored_tuner(record, concurrent)
    else:
        tuner = _new_tuner(trainable(record), record, concurrent)
    results = tuner.fit()
    # After Ctrl-C, `fit` returns as if all had gone well. So count the trials that have ended.
    if SweepCallback.ended is not None:
        return len(SweepCallback.ended) >= trial_count(record.sweep)
    # The callback was never called: either Tune was interrupted before its first step, or all
    # trials had ended in earlier sessions.
    all_ended: bool = results.num_terminated >= trial_count(record.sweep)
    if all_ended:
        restored = {}
        for result in results:
            metrics = result.metrics
            if metrics and "config" in metrics:
                restored[metrics["trial_id"]] = restored_trial(metrics["config"], metrics)
        SweepCallback.on_restore(restored)
    return all_ended


def _has_saved_trials(folder: str) -> bool:
    # Tune writes its settings before the state of the trials, and can't resume from settings alone.
    has_state = any(name.startswith("experiment_state-") for name in list_folder(folder))
    return has_state and bool(ray.tune.Tuner.can_restore(folder))


def _restored_tuner(record: SweepRecord, concurrent: int) -> ray.tune.Tuner:
    # Sweeps of older versions refer to classes by their old names.
    add_old_module_names()
    clear_failure_marks(record.folder)
    slots_name = f"trial slots of {record.sweep_id}"
    SweepCallback.trial_slots = start_trial_slots(slots_name, concurrent)
    return ray.tune.Tuner.restore(
        f"{record.folder}/tune",
        trainable(record, slots_name),
        resume_unfinished=True,
        resume_errored=True,
    )


def _new_tuner(
    train_trial: Callable[[dict[str, Any]], None], record: SweepRecord, concurrent: int
) -> ray.tune.Tuner:
    sweep: Sweep = record.sweep
    return ray.tune.Tuner(
        train_trial,
        param_space={"values": search_space(sweep)},
        tune_config=ray.tune.TuneConfig(
            search_alg=search_algorithm(sweep, concurrent),
            scheduler=scheduler(sweep, record.base.optimizer.epochs),
            # A grid would be repeated `num_samples` times.
            num_samples=1 if sweep.search == "grid" else sweep.trials,
            # Tune's default names contain the parameters, and get too long for file systems
            # (ray#29586).
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=ray.tune.RunConfig(
            name="tune",
            storage_path=record.folder,
            verbose=0,
            callbacks=[SweepCallback()],
            failure_config=ray.tune.FailureConfig(max_failures=record.base.scaling.max_failures),
        ),
    )

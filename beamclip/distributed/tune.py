"""Running a sweep's trials with Ray Tune."""

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
    cell,
    planned_values,
    start_of,
    trial_count,
    with_values,
)
from beamclip.distributed.callback import FINAL, Listener, SweepCallback, report_of, retries
from beamclip.distributed.student_handoff import StudentHandoff, forget_failures
from beamclip.distributed.trainer import run_trial
from beamclip.stores.paths import asset_key, entries
from beamclip.stores.sweep_record import SweepRecord

# Trials that train at once where Tune does not see to it: all that it restores, it starts.


_POLL = 1.0  # seconds


class TrialSlots:
    """Who may train. An actor of the sweep's own process.

    Args:
        count: trials at once.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken: set[str] = set()

    def take(self, trial_id: str) -> bool:
        """Whether this trial may train now. One that was tried again after a loss still has its turn."""
        if len(self._taken - {trial_id}) < self._count:
            self._taken.add(trial_id)
        return trial_id in self._taken

    def end(self, trial_id: str) -> None:
        """This trial is over."""
        self._taken.discard(trial_id)


def open_turns(name: str, count: int) -> Any:
    """The actor, which lives as long as what is returned."""
    return ray.remote(TrialSlots).options(name=name, num_cpus=0).remote(count)


def wait_for_turn(name: str) -> None:
    """Wait, in a trial, until it may train. Where the actor is lost, all may."""
    try:
        turns, trial_id = ray.get_actor(name), ray.tune.get_context().get_trial_id()
        while not ray.get(turns.take.remote(trial_id)):
            time.sleep(_POLL)
    except (ValueError, ray.exceptions.RayError):
        return


# From a declared sweep to Ray Tune: space, search and early stopping.


EARLY_METRIC = "zero_shot/val_top1"  # the one val metric every epoch reports


def search_space(sweep: Sweep) -> Any:
    """Tune's form of the space. A grid is a list of cells, so that trials start in the order in which they are listed."""
    if sweep.search == "grid":
        return ray.tune.grid_search(planned_values(sweep))
    return {key: _dimension(dimension) for key, dimension in sweep.space.items()}


def _dimension(dimension: Choice | Uniform) -> Any:
    if isinstance(dimension, Choice):
        return ray.tune.choice(list(dimension.values))
    return (ray.tune.loguniform if dimension.log else ray.tune.uniform)(
        dimension.low, dimension.high
    )


def search_algorithm(sweep: Sweep, concurrent: int) -> SearchAlgorithm | Searcher:
    """Grid and random by Tune itself; Optuna's TPE where asked for.

    Raises:
        UserError: Optuna is not installed.
    """
    if sweep.search != "optuna":
        return BasicVariantGenerator(max_concurrent=concurrent, random_state=sweep.seed)
    return ConcurrencyLimiter(_optuna(sweep), max_concurrent=concurrent)


def _optuna(sweep: Sweep) -> Searcher:
    from ray.tune.search.optuna import OptunaSearch

    class AtTheEnd(OptunaSearch):  # type: ignore[misc]
        """Learns from a trial's last report alone: epochs before it have no `sweep.metric`, and Ray's own would raise KeyError."""

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            return None

    try:
        return AtTheEnd(metric=sweep.metric, mode="max", seed=sweep.seed)
    except (ImportError, AssertionError):
        raise UserError(
            'search is optuna, which is not installed; run pip install "beamclip[optuna]"'
        ) from None


def scheduler(sweep: Sweep, epochs: int) -> TrialScheduler:
    """ASHA on the val metric of each epoch, or none."""
    if sweep.asha is None:
        return FIFOScheduler()
    asha = sweep.asha
    return ASHAScheduler(
        time_attr="epoch", metric=EARLY_METRIC, mode="max", max_t=epochs + 1,
        grace_period=min(asha.grace_epochs, epochs + 1), reduction_factor=asha.reduction_factor,
    )  # fmt: skip


_DRIVER = {"memory": 1}
"""A trial's driver only waits, and Tune starts all those that it restores at once: a byte each, since Tune wants something asked for, and
no CPU, of which enough of them would starve the workers of the one that trains."""
_Relay = SweepCallback  # as Tune's kept state of sweeps names it that were begun before it had a file of its own


def trainable(record: SweepRecord, turns: str | None = None) -> Callable[[dict[str, Any]], None]:
    """Tune's function for this sweep: resolves a trial's values into an experiment and its stores.

    Args:
        turns: name of the actor that says when a trial may train; None where Tune starts no more than that.
    """
    sweep, base, assets, folder = (
        record.sweep,
        record.base,
        dict(record.assets),
        record.folder,
    )  # worked out here: a trial runs elsewhere

    def trial(config: dict[str, Any]) -> None:
        experiment, before = (
            cell(sweep, base, config["values"]),
            start_of(sweep, base, config["values"]),
        )
        with _last_word(), StudentHandoff(folder, experiment) as handover:
            started = (
                experiment
                if before is None
                else with_values(experiment, {"student.init": handover.wait_for(before)})
            )
            if (
                turns is not None
            ):  # after the wait for another trial, which may need the turn itself
                wait_for_turn(turns)
            config = {
                "experiment": started.model_dump_json(),
                "assets": assets[asset_key(experiment)],
                "folder": f"{folder}/trials",
            }
            handover.leave(run_trial(config))

    wrapped: Callable[[dict[str, Any]], None] = ray.tune.with_resources(trial, _DRIVER)
    return wrapped


@contextlib.contextmanager
def _last_word() -> Iterator[None]:
    """Say of an error that it is final. Train has tried again where that may help, unless it was lost itself."""
    try:
        yield
    except ray.exceptions.RayError:
        raise
    except Exception:
        ray.tune.report({FINAL: True})
        raise


def run_trials(record: SweepRecord, listener: Listener, concurrent: int, resume: bool) -> bool:
    """Run or go on with all trials of a sweep.

    Returns:
        True where it ended by itself, False where it was interrupted (its state is saved).
    """
    SweepCallback.connect(listener, record)
    if resume and _has_begun(f"{record.folder}/tune"):
        tuner = _restored_tuner(record, concurrent)
    else:
        tuner = _new_tuner(trainable(record), record, concurrent)
    results = tuner.fit()  # after Ctrl-C it returns as if all was well
    if SweepCallback.over is not None:
        return len(SweepCallback.over) >= trial_count(record.sweep)
    by_itself: bool = results.num_terminated >= trial_count(
        record.sweep
    )  # where nothing was left to do, Tune takes no step
    if by_itself:
        last = [
            result.metrics for result in results if result.metrics and "config" in result.metrics
        ]
        SweepCallback.on_restore(
            {metrics["trial_id"]: report_of(metrics, metrics["config"]) for metrics in last}
        )
    return by_itself


def _has_begun(folder: str) -> bool:
    """Whether Tune has kept the state of any trial; it writes its settings first, from which alone it can't go on."""
    states = any(name.startswith("experiment_state-") for name in entries(folder))
    return states and bool(ray.tune.Tuner.can_restore(folder))


def _restored_tuner(record: SweepRecord, concurrent: int) -> ray.tune.Tuner:
    forget_failures(record.folder)
    name = f"turns of {record.sweep_id}"
    SweepCallback.turns = open_turns(name, concurrent)
    function = trainable(record, name)
    return ray.tune.Tuner.restore(
        f"{record.folder}/tune", function, resume_unfinished=True, resume_errored=True
    )


def _new_tuner(
    function: Callable[..., Any], record: SweepRecord, concurrent: int
) -> ray.tune.Tuner:
    sweep: Sweep = record.sweep
    return ray.tune.Tuner(
        function,
        param_space={"values": search_space(sweep)},
        tune_config=ray.tune.TuneConfig(
            search_alg=search_algorithm(sweep, concurrent),
            scheduler=scheduler(sweep, record.base.optimiser.epochs),
            num_samples=1 if sweep.search == "grid" else sweep.trials,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: (
                trial.trial_id
            ),  # names made of parameters grow too long (ray#29586)
        ),
        run_config=ray.tune.RunConfig(
            name="tune",
            storage_path=record.folder,
            verbose=0,
            callbacks=[SweepCallback()],
            failure_config=ray.tune.FailureConfig(max_failures=retries(record)),
        ),
    )

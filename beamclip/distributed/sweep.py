"""Running a sweep's trials with Ray Tune."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.tune

from beamclip.config import Sweep, cell, start_of, trial_count, with_values
from beamclip.distributed.handover import Handover, forget_failures
from beamclip.distributed.relay import FINAL, Listener, Relay, report_of, retries
from beamclip.distributed.search import scheduler, search_algorithm, search_space
from beamclip.distributed.trial import run_trial
from beamclip.distributed.turns import open_turns, wait_for_turn
from beamclip.records import SweepRecord
from beamclip.storage import asset_key, entries

_DRIVER = {"memory": 1}
"""A trial's driver only waits, and Tune starts all those that it restores at once: a byte each, since Tune wants something asked for, and
no CPU, of which enough of them would starve the workers of the one that trains."""
_Relay = Relay  # as Tune's kept state of sweeps names it that were begun before it had a file of its own


def trainable(record: SweepRecord, turns: str | None = None) -> Callable[[dict[str, Any]], None]:
    """Tune's function for this sweep: resolves a trial's values into an experiment and its stores.

    Args:
        turns: name of the actor that says when a trial may train; None where Tune starts no more than that.
    """
    sweep, base, assets, folder = record.sweep, record.base, dict(record.assets), record.folder  # worked out here: a trial runs elsewhere

    def trial(config: dict[str, Any]) -> None:
        experiment, before = cell(sweep, base, config["values"]), start_of(sweep, base, config["values"])
        with _last_word(), Handover(folder, experiment) as handover:
            started = experiment if before is None else with_values(experiment, {"student.init": handover.wait_for(before)})
            if turns is not None:  # after the wait for another trial, which may need the turn itself
                wait_for_turn(turns)
            config = {"experiment": started.model_dump_json(), "assets": assets[asset_key(experiment)], "folder": f"{folder}/trials"}
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
    Relay.connect(listener, record)
    if resume and _has_begun(f"{record.folder}/tune"):
        tuner = _restored_tuner(record, concurrent)
    else:
        tuner = _new_tuner(trainable(record), record, concurrent)
    results = tuner.fit()  # after Ctrl-C it returns as if all was well
    if Relay.over is not None:
        return len(Relay.over) >= trial_count(record.sweep)
    by_itself: bool = results.num_terminated >= trial_count(record.sweep)  # where nothing was left to do, Tune takes no step
    if by_itself:
        last = [result.metrics for result in results if result.metrics and "config" in result.metrics]
        Relay.over_before({metrics["trial_id"]: report_of(metrics, metrics["config"]) for metrics in last})
    return by_itself


def _has_begun(folder: str) -> bool:
    """Whether Tune has kept the state of any trial; it writes its settings first, from which alone it can't go on."""
    states = any(name.startswith("experiment_state-") for name in entries(folder))
    return states and bool(ray.tune.Tuner.can_restore(folder))


def _restored_tuner(record: SweepRecord, concurrent: int) -> ray.tune.Tuner:
    forget_failures(record.folder)
    name = f"turns of {record.sweep_id}"
    Relay.turns = open_turns(name, concurrent)
    function = trainable(record, name)
    return ray.tune.Tuner.restore(f"{record.folder}/tune", function, resume_unfinished=True, resume_errored=True)


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
        run_config=ray.tune.RunConfig(
            name="tune",
            storage_path=record.folder,
            verbose=0,
            callbacks=[Relay()],
            failure_config=ray.tune.FailureConfig(max_failures=retries(record)),
        ),
    )

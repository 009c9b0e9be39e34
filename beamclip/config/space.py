"""Plan the trials of a sweep: their number, their values, and the experiment of each trial."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beamclip.config.errors import UserError
from beamclip.config.experiment import Experiment
from beamclip.config.load import with_values
from beamclip.config.renamed import current_names
from beamclip.config.sweep import Choice, Sweep, Uniform, Value, choice

_FROM_VARIANT = "variant:"
_STORE_KEYS = (
    "data.",
    "views.",
    "teacher.",
    "anchors.",
    "balance.",
)
"""Prefixes of the keys that decide which stores a trial needs; see `_decides_stores`."""


def trial_experiment(sweep: Sweep, base: Experiment, values: Mapping[str, Any]) -> Experiment:
    """Return the experiment of one trial: the base, its variant's settings, then its own values.

    Args:
        sweep: the sweep.
        base: the settings all trials share.
        values: the trial's value of each dimension, by dotted key. Old names are accepted, since
            Ray Tune keeps the values of a sweep that an older version started.

    Raises:
        UserError: the values don't make a valid experiment.
    """
    own_values = current_names(values)
    variant = own_values.pop("variant", None)
    variant_settings = {} if variant is None else sweep.variants.get(str(variant), {})
    return with_values(base, {**variant_settings, **own_values})


def init_experiment(sweep: Sweep, base: Experiment, values: Mapping[str, Any]) -> Experiment | None:
    """Return the experiment of the trial whose student this trial starts from.

    Args:
        sweep: the sweep.
        base: the settings all trials share.
        values: the values of this trial.

    Returns:
        The experiment, or None if `student.init` names no variant.

    Raises:
        UserError: there is no such trial, or it would not run before this one.
    """
    init = trial_experiment(sweep, base, values).student.init
    if not init.startswith(_FROM_VARIANT):
        return None
    init_variant = init.removeprefix(_FROM_VARIANT)
    dimension = sweep.space.get("variant")
    names = list(dimension.values) if isinstance(dimension, Choice) else []
    # Trials run in the order of the list, so the other trial must come first.
    variant = values.get("variant")
    if init_variant not in names or names.index(init_variant) >= names.index(variant):
        raise UserError(
            f"student.init {init} names no variant that is listed before {variant}; "
            f"list {init_variant} first"
        )
    if sweep.search != "grid" or sweep.asha is not None:
        raise UserError(
            f"student.init {init} needs another trial to finish, which only a grid without ASHA "
            "guarantees; drop one of the two"
        )
    return trial_experiment(sweep, base, {**values, "variant": init_variant})


def planned_values(sweep: Sweep) -> list[dict[str, Value]]:
    """Return all combinations of the dimensions with listed values, each as values by dotted key.

    Dimensions that are ranges are left out. Stores are planned from these combinations, and no
    store may depend on a range.
    """
    choices = {
        key: dimension.values
        for key, dimension in sweep.space.items()
        if isinstance(dimension, Choice)
    }
    combinations = itertools.product(*choices.values())
    return [dict(zip(choices, values, strict=True)) for values in combinations]


def trial_count(sweep: Sweep) -> int:
    """Return how many trials the sweep starts."""
    return len(planned_values(sweep)) if sweep.search == "grid" else sweep.trials


def check_space(sweep: Sweep, base: Experiment) -> None:
    """Check all trials of a sweep before anything starts.

    Raises:
        UserError: an unknown key, a value of the wrong type, or an impossible combination. The
            message names the trial.
    """
    for key, dimension in sweep.space.items():
        if isinstance(dimension, Uniform) and _decides_stores(key):
            raise UserError(
                f"{key} decides which stores are built, so it can't be drawn from a range; "
                "list its values with choice(...)"
            )
    _check_trial_count(sweep)
    for values in _corner_values(sweep):
        try:
            experiment = trial_experiment(sweep, base, values)
            init_experiment(sweep, base, values)
            _check_asha(sweep, experiment)
        except UserError as error:
            listed = ", ".join(f"{key}={value}" for key, value in values.items())
            trial = f" (in the trial {listed})" if listed else ""
            raise UserError(f"{error}{trial}") from None


def _decides_stores(key: str) -> bool:
    """Return True if trials with different values of a setting need different stores."""
    # An objective that requires clusters has their number as its setting `clusters`. Any setting of
    # that name counts, because only the trials know which objectives require them.
    is_clusters = key.startswith("objective.") and key.endswith(".clusters")
    return key.startswith(_STORE_KEYS) or key == "objective.name" or is_clusters


def _check_trial_count(sweep: Sweep) -> None:
    """Raise UserError if a search without ranges has more trials than combinations of values."""
    has_range = any(isinstance(dimension, Uniform) for dimension in sweep.space.values())
    if sweep.search == "grid" or has_range:
        return
    combinations = len(planned_values(sweep))
    if sweep.trials > combinations:
        raise UserError(
            f"search={sweep.search} would draw {sweep.trials} trials from {combinations} "
            "combinations, so some would be repeated; use search=grid, give a range, "
            f"or draw {combinations} or fewer"
        )


def _check_asha(sweep: Sweep, experiment: Experiment) -> None:
    if sweep.asha is not None and not experiment.objective.requirements.projected:
        raise UserError(
            "ASHA stops trials by zero-shot accuracy on val, which objective.name "
            f"{experiment.objective.name} lacks, because it doesn't train embeddings in the "
            "teacher's space; leave ASHA out"
        )


def _corner_values(sweep: Sweep) -> Iterator[dict[str, Value]]:
    """Yield all combinations of the listed values and both ends of every range.

    Settings are bounded by intervals, so a range is valid if both of its ends are.
    """
    ends: dict[str, Sequence[Any]] = {
        key: (dimension.low, dimension.high)
        for key, dimension in sweep.space.items()
        if isinstance(dimension, Uniform)
    }
    for values in planned_values(sweep):
        for corner in itertools.product(*ends.values()):
            yield values | dict(zip(ends, corner, strict=True))


def with_seeds(sweep: Sweep, base: Experiment, count: int) -> Sweep:
    """Return the sweep with one more dimension, `seed`, so that each trial runs with several seeds.

    The seed changes the student's first weights and the order of samples. Views and the split into
    train and val have their own seeds, so all repetitions share their stores.

    Args:
        sweep: a sweep that is a grid.
        base: the settings all trials share. Its `seed` is the first seed.
        count: number of seeds.

    Raises:
        UserError: `count` is below 1, the space already varies `seed`, or the search is not a grid.
    """
    if count < 1:
        raise UserError(
            f"--seeds is {count}; give the number of seeds to train each trial with, 1 or more"
        )
    if "seed" in sweep.varied:
        raise UserError(
            f"sweep {sweep.name} varies seed already, so --seeds {count} can't vary it too; "
            "leave --seeds out, or take seed out of the space"
        )
    if sweep.search != "grid":
        raise UserError(
            f"--seeds repeats the trials of a grid, but search is {sweep.search}; "
            "list the values, or leave --seeds out"
        )
    seeds = choice(*range(base.seed, base.seed + count))
    return sweep.model_copy(update={"space": {**sweep.space, "seed": seeds}})

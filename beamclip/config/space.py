"""The trials of a sweep: their number, their values, and the experiment of each."""

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
    "objective.name",
    "objective.clip_cid.clusters",
)
"""Beginnings of the keys that decide which stores a trial needs."""


def trial_experiment(sweep: Sweep, base: Experiment, values: Mapping[str, Any]) -> Experiment:
    """Return the experiment of one trial: the base, its variant's settings, then its own values.

    Args:
        sweep: the sweep.
        base: the settings all trials share.
        values: the trial's value of each dimension, by dotted key. Ray Tune keeps those of a sweep
            that an older version began, so old names are accepted.
    """
    over = current_names(values)
    variant = over.pop("variant", None)
    settings = {} if variant is None else sweep.variants.get(str(variant), {})
    return with_values(base, {**settings, **over})


def init_experiment(sweep: Sweep, base: Experiment, values: Mapping[str, Any]) -> Experiment | None:
    """Return the experiment of the trial whose student this trial starts from.

    Args:
        sweep: the sweep.
        base: the settings all trials share.
        values: the values of the trial that starts.

    Returns:
        None if `student.init` names no variant.

    Raises:
        UserError: there is no such trial, or it would not run before this one.
    """
    init = trial_experiment(sweep, base, values).student.init
    if not init.startswith(_FROM_VARIANT):
        return None
    other = init.removeprefix(_FROM_VARIANT)
    dimension = sweep.space.get("variant")
    names = list(dimension.values) if isinstance(dimension, Choice) else []
    if other not in names or names.index(other) >= names.index(values.get("variant")):
        raise UserError(
            f"student.init {init} names no variant that is listed before {values.get('variant')}; "
            f"list {other} first"
        )
    if sweep.search != "grid" or sweep.asha is not None:
        raise UserError(
            f"student.init {init} waits for another trial, which only a grid without ASHA is sure "
            "to finish; drop one of the two"
        )
    return trial_experiment(sweep, base, {**values, "variant": other})


def planned_values(sweep: Sweep) -> list[dict[str, Value]]:
    """Return every combination of the listed values, as values by dotted key.

    Ranges are left out: stores are planned from these values, and no store may depend on a range.
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
    """Check all trials of the space before anything starts.

    Raises:
        UserError: an unknown key, a value of the wrong type, or an impossible combination. The
            message names the trial.
    """
    for key, dimension in sweep.space.items():
        if isinstance(dimension, Uniform) and key.startswith(_STORE_KEYS):
            raise UserError(
                f"{key} decides what is stored, so it can't be drawn from a range; "
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


def _check_trial_count(sweep: Sweep) -> None:
    """Refuse a random search that must repeat trials, because it only has listed values."""
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
            f"objective.name {experiment.objective.name} doesn't train embeddings in the teacher's "
            "space, so it has no zero-shot accuracy on val, by which ASHA stops trials; "
            "leave ASHA out"
        )


def _corner_values(sweep: Sweep) -> Iterator[dict[str, Value]]:
    """Yield the listed values combined with both ends of every range."""
    ends: dict[str, Sequence[Any]] = {
        key: (dimension.low, dimension.high)
        for key, dimension in sweep.space.items()
        if isinstance(dimension, Uniform)
    }
    for values in planned_values(sweep):
        for corner in itertools.product(*ends.values()):
            yield values | dict(zip(ends, corner, strict=True))


def with_seeds(sweep: Sweep, base: Experiment, count: int) -> Sweep:
    """Return the sweep with a dimension `seed`, so that every trial is repeated with other seeds.

    Only what the seed decides is repeated: the student's weights and the order of samples. Views
    and the split into train and val have their own seeds, so no store is built again.

    Args:
        sweep: a grid.
        base: its `seed` is the first one.
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
            f"sweep {sweep.name} varies seed already, so --seeds {count} can't; "
            "leave it out, or take seed out of the space"
        )
    if sweep.search != "grid":
        raise UserError(
            f"--seeds repeats the trials of a grid, but search is {sweep.search}; "
            "list the values, or leave --seeds out"
        )
    seeds = choice(*range(base.seed, base.seed + count))
    return sweep.model_copy(update={"space": {**sweep.space, "seed": seeds}})

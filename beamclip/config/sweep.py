"""`--seeds N`: every cell of a sweep again with other seeds, so that its numbers come with the noise that training adds."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from beamclip.config.base import Strict
from beamclip.config.errors import UserError, nearest
from beamclip.config.experiment import Experiment
from beamclip.config.load import known_keys, with_values

# The dimensions of a search space: lists of values, and ranges that are drawn from.


Value = bool | int | float | str | None


class Choice(Strict):
    """One of a list; a grid search tries them all."""

    kind: Literal["choice"] = "choice"
    values: tuple[Value, ...] = Field(min_length=1)

    @field_validator("values", mode="before")
    @classmethod
    def _numbers_end(cls, values: Any) -> Any:
        """Else the first of the kinds that a value may be would be asked for: true or false."""
        for value in values if isinstance(values, list | tuple) else ():
            if isinstance(value, float) and not isfinite(value):
                raise ValueError(f"{value} is no number to try; give one that is finite")
        return (
            tuple(values) if isinstance(values, list) else values
        )  # what stands before a check of pydantic's is no longer JSON to it


class Uniform(Strict):
    """Drawn between low and high; on the logarithm where `log` says so."""

    kind: Literal["uniform"] = "uniform"
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _is_an_interval(self) -> "Uniform":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"a range from {self.low} to {self.high} holds nothing to draw{' on a logarithm' if self.log else ''}"
            )
        return self


Dimension = Annotated[Choice | Uniform, Field(discriminator="kind")]


def choice(*values: Value) -> Choice:
    """A dimension that takes each of these values."""
    return Choice(values=values)


def uniform(low: float, high: float) -> Uniform:
    """A dimension drawn evenly between two numbers."""
    return Uniform(low=low, high=high)


def loguniform(low: float, high: float) -> Uniform:
    """A dimension drawn evenly on the logarithm between two positive numbers."""
    return Uniform(low=low, high=high, log=True)


# What a sweep is: a search space over dotted keys, and how it is searched.


class Asha(Strict):
    """Asynchronous successive halving: after 1, η, η²… rungs only the best 1/η go on (arXiv 1810.05934)."""

    grace_epochs: int = Field(1, ge=1)
    reduction_factor: int = Field(3, ge=2)


class Sweep(Strict):
    """A question, and the trials that answer it."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,60}$")
    """Also the MLflow experiment's name."""
    question: str = ""
    space: dict[str, Dimension] = {}
    """Dotted key -> dimension. Empty: one trial."""
    variants: dict[str, dict[str, Any]] = {}
    """Settings that only make sense together, `{simclr: {objective.name: simclr, optimiser.lr: 0.3}}`; `variant` in the space names them.
    Sections may be nested as in a preset; here they become dotted keys.
    A variant whose `student.init` is `variant:OTHER` starts from what that one has learnt, in the same sweep and cell."""
    search: Literal["grid", "random", "optuna"] = "grid"
    trials: int = Field(16, ge=1)
    """How many to draw; a grid has as many as it has cells."""
    seed: int = Field(0, ge=0)
    """Seed of the drawing itself."""
    metric: str = "linear_probe/val_top1"
    """What the best trial is best at. Never a test metric."""
    asha: Asha | None = None
    """Stops poor trials early on `zero_shot/val_top1`, which every epoch reports."""

    @field_validator("name")
    @classmethod
    def _is_a_folder_of_its_own(cls, name: str) -> str:
        if name in (".", ".."):
            raise ValueError(
                f"{name} means a folder that is there already; use letters, digits, - and _ as well"
            )
        return name

    @field_validator("variants")
    @classmethod
    def _bundles_are_flat(cls, variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {name: _dotted(bundle) for name, bundle in variants.items()}

    @model_validator(mode="after")
    def _is_searchable(self) -> "Sweep":
        ranges = [key for key, dimension in self.space.items() if isinstance(dimension, Uniform)]
        if self.search == "grid" and ranges:
            raise ValueError(
                f"{ranges[0]} is a range, which a grid can't walk; list its values, or search it at random (--search random)"
            )
        self._variants_are_there()
        if "test" in self.metric:
            raise ValueError(
                f"metric {self.metric} is measured on test, which is looked at once, after the choice; choose on val"
            )
        return self

    def _variants_are_there(self) -> None:
        dimension = self.space.get("variant")
        named = [str(value) for value in dimension.values] if isinstance(dimension, Choice) else []
        missing = [name for name in named if name not in self.variants]
        if missing or (self.variants and not named):
            wrong = (
                f"variant {missing[0]} does not exist{nearest(missing[0], self.variants)}"
                if missing
                else "no trial takes a variant"
            )
            raise ValueError(
                f"{wrong}; name each in variants, and list them in the space under variant"
            )

    @property
    def varied(self) -> tuple[str, ...]:
        """Every key that trials may differ in: those of the space, and of the variants' bundles."""
        return tuple(
            dict.fromkeys(
                [*self.space, *(key for bundle in self.variants.values() for key in bundle)]
            )
        )


def _dotted(bundle: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Down to settings and no further: one that is a mapping itself may have keys with dots in them, such as class names."""
    flat: dict[str, Any] = {}
    for name, value in bundle.items():
        key = f"{prefix}{name}"
        is_section = isinstance(value, Mapping) and any(
            known.startswith(f"{key}.") for known in known_keys(Experiment)
        )
        flat |= _dotted(value, f"{key}.") if is_section else {key: value}
    return flat


def cell(sweep: Sweep, base: Experiment, values: Mapping[str, Any]) -> Experiment:
    """The experiment of one trial: the base, its variant's settings over it, its own values over both.

    Args:
        values: of the dimensions of the space.
    """
    bundle = sweep.variants.get(str(values["variant"]), {}) if "variant" in values else {}
    return with_values(
        base, {**bundle, **{key: value for key, value in values.items() if key != "variant"}}
    )


_FROM_VARIANT = "variant:"


def start_of(sweep: Sweep, base: Experiment, values: Mapping[str, Any]) -> Experiment | None:
    """The experiment of the trial that this one's student starts from, None where it starts by itself.

    Raises:
        UserError: there is no such trial, or it would not run before this one.
    """
    init = cell(sweep, base, values).student.init
    if not init.startswith(_FROM_VARIANT):
        return None
    other, dimension = init.removeprefix(_FROM_VARIANT), sweep.space.get("variant")
    names = list(dimension.values) if isinstance(dimension, Choice) else []
    if other not in names or names.index(other) >= names.index(values.get("variant")):
        raise UserError(
            f"student.init {init} names no variant that is listed before {values.get('variant')}; list {other} first"
        )
    if sweep.search != "grid" or sweep.asha is not None:
        raise UserError(
            f"student.init {init} waits for another trial, which only a grid without ASHA is sure to finish; drop one of the two"
        )
    return cell(sweep, base, {**values, "variant": other})


def planned_values(sweep: Sweep) -> list[dict[str, Value]]:
    """Every combination of the listed values; ranges are left out, since no store depends on a number drawn from one."""
    choices = {key: d.values for key, d in sweep.space.items() if isinstance(d, Choice)}
    return [dict(zip(choices, cell, strict=True)) for cell in itertools.product(*choices.values())]


def trial_count(sweep: Sweep) -> int:
    """How many trials the sweep will start."""
    return len(planned_values(sweep)) if sweep.search == "grid" else sweep.trials


_STORE_KEYS = (
    "data.",
    "views.",
    "teacher.",
    "anchors.",
    "balance.",
    "objective.name",
    "objective.clip_cid.clusters",
)


def check_space(sweep: Sweep, base: Experiment) -> None:
    """Find what is wrong with any cell of the space before anything starts.

    Raises:
        UserError: an unknown key, a value of the wrong type, or an impossible combination, naming the cell.
    """
    for key, dimension in sweep.space.items():
        if isinstance(dimension, Uniform) and key.startswith(_STORE_KEYS):
            raise UserError(
                f"{key} decides what is stored, so it can't be drawn from a range; list its values with choice(...)"
            )
    _check_draws(sweep)
    for values in _corner_values(sweep):
        try:
            one = cell(sweep, base, values)
            start_of(sweep, base, values)
            if sweep.asha is not None and not one.objective.needs.projected:
                raise UserError(
                    f"objective.name {one.objective.name} brings no image near a text, so that ASHA, which stops trials by their zero-shot "
                    "accuracy on val, can't judge it; leave ASHA out"
                )
        except UserError as error:
            named = ", ".join(f"{key}={value}" for key, value in values.items())
            raise UserError(f"{error}{f' (in the trial {named})' if named else ''}") from None


def _check_draws(sweep: Sweep) -> None:
    cells = len(planned_values(sweep))
    if (
        sweep.search != "grid"
        and sweep.trials > cells
        and not any(isinstance(one, Uniform) for one in sweep.space.values())
    ):
        raise UserError(
            f"search={sweep.search} would draw {sweep.trials} trials from {cells} cells, so that some would be run again for nothing; "
            f"use search=grid, give a range, or draw {cells} or fewer"
        )


def _corner_values(sweep: Sweep) -> Iterator[dict[str, Value]]:
    """The listed values crossed with both ends of every range."""
    ends: dict[str, Sequence[Any]] = {
        k: (d.low, d.high) for k, d in sweep.space.items() if isinstance(d, Uniform)
    }
    for values in planned_values(sweep):
        for corner in itertools.product(*ends.values()):
            yield values | dict(zip(ends, corner, strict=True))


def with_seeds(sweep: Sweep, base: Experiment, count: int) -> Sweep:
    """The sweep with a dimension `seed` of `count` values, from the experiment's own seed on.

    Only what the seed decides is repeated: the student's weights and the order of samples. Views and the split into train and val have
    seeds of their own, so that no store has to be made again.

    Raises:
        UserError: fewer than one, the space varies `seed` already, or its trials are drawn, so that none would be repeated.
    """
    if count < 1:
        raise UserError(
            f"--seeds is {count}; give the number of seeds that every cell is trained with, 1 or more"
        )
    if "seed" in sweep.varied:
        raise UserError(
            f"sweep {sweep.name} varies seed already, so --seeds {count} can't; leave it out, or take seed out of the space"
        )
    if sweep.search != "grid":
        raise UserError(
            f"--seeds repeats the cells of a grid, but search is {sweep.search}; list the values, or leave --seeds out"
        )
    return sweep.model_copy(
        update={"space": {**sweep.space, "seed": choice(*range(base.seed, base.seed + count))}}
    )

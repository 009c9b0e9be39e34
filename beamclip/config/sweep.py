"""What a sweep is: a search space over dotted keys, and how it is searched."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from beamclip.config.errors import UserError, nearest
from beamclip.config.experiment import Experiment
from beamclip.config.load import with_values
from beamclip.config.space import Choice, Dimension, Uniform, Value
from beamclip.config.tree import known_keys
from beamclip.config.views import Strict


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
            raise ValueError(f"{name} means a folder that is there already; use letters, digits, - and _ as well")
        return name

    @field_validator("variants")
    @classmethod
    def _bundles_are_flat(cls, variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {name: _dotted(bundle) for name, bundle in variants.items()}

    @model_validator(mode="after")
    def _is_searchable(self) -> "Sweep":
        ranges = [key for key, dimension in self.space.items() if isinstance(dimension, Uniform)]
        if self.search == "grid" and ranges:
            raise ValueError(f"{ranges[0]} is a range, which a grid can't walk; list its values, or search it at random (--search random)")
        self._variants_are_there()
        if "test" in self.metric:
            raise ValueError(f"metric {self.metric} is measured on test, which is looked at once, after the choice; choose on val")
        return self

    def _variants_are_there(self) -> None:
        dimension = self.space.get("variant")
        named = [str(value) for value in dimension.values] if isinstance(dimension, Choice) else []
        missing = [name for name in named if name not in self.variants]
        if missing or (self.variants and not named):
            wrong = f"variant {missing[0]} does not exist{nearest(missing[0], self.variants)}" if missing else "no trial takes a variant"
            raise ValueError(f"{wrong}; name each in variants, and list them in the space under variant")

    @property
    def varied(self) -> tuple[str, ...]:
        """Every key that trials may differ in: those of the space, and of the variants' bundles."""
        return tuple(dict.fromkeys([*self.space, *(key for bundle in self.variants.values() for key in bundle)]))


def _dotted(bundle: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Down to settings and no further: one that is a mapping itself may have keys with dots in them, such as class names."""
    flat: dict[str, Any] = {}
    for name, value in bundle.items():
        key = f"{prefix}{name}"
        is_section = isinstance(value, Mapping) and any(known.startswith(f"{key}.") for known in known_keys(Experiment))
        flat |= _dotted(value, f"{key}.") if is_section else {key: value}
    return flat


def cell(sweep: Sweep, base: Experiment, values: Mapping[str, Any]) -> Experiment:
    """The experiment of one trial: the base, its variant's settings over it, its own values over both.

    Args:
        values: of the dimensions of the space.
    """
    bundle = sweep.variants.get(str(values["variant"]), {}) if "variant" in values else {}
    return with_values(base, {**bundle, **{key: value for key, value in values.items() if key != "variant"}})


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
        raise UserError(f"student.init {init} names no variant that is listed before {values.get('variant')}; list {other} first")
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


_STORE_KEYS = ("data.", "views.", "teacher.", "anchors.", "balance.", "objective.name", "objective.clip_cid.clusters")


def check_space(sweep: Sweep, base: Experiment) -> None:
    """Find what is wrong with any cell of the space before anything starts.

    Raises:
        UserError: an unknown key, a value of the wrong type, or an impossible combination, naming the cell.
    """
    for key, dimension in sweep.space.items():
        if isinstance(dimension, Uniform) and key.startswith(_STORE_KEYS):
            raise UserError(f"{key} decides what is stored, so it can't be drawn from a range; list its values with choice(...)")
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
    if sweep.search != "grid" and sweep.trials > cells and not any(isinstance(one, Uniform) for one in sweep.space.values()):
        raise UserError(
            f"search={sweep.search} would draw {sweep.trials} trials from {cells} cells, so that some would be run again for nothing; "
            f"use search=grid, give a range, or draw {cells} or fewer"
        )


def _corner_values(sweep: Sweep) -> Iterator[dict[str, Value]]:
    """The listed values crossed with both ends of every range."""
    ends: dict[str, Sequence[Any]] = {k: (d.low, d.high) for k, d in sweep.space.items() if isinstance(d, Uniform)}
    for values in planned_values(sweep):
        for corner in itertools.product(*ends.values()):
            yield values | dict(zip(ends, corner, strict=True))

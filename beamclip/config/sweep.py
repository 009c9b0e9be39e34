"""Settings of a sweep: a search space over dotted keys, and how it is searched."""

import re
from collections.abc import Mapping
from math import isfinite
from numbers import Integral
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from beamclip.config.base import Strict
from beamclip.config.errors import UserError, nearest
from beamclip.config.experiment import Experiment
from beamclip.config.metrics import VAL_TOP1
from beamclip.config.overrides import known_keys
from beamclip.config.renamed import current_names
from beamclip.config.validation import describe_errors

Value = bool | int | float | str | None

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,60}")


class _ScriptModel(Strict):
    """Base class of the models that users create in scripts: mistakes raise UserError."""

    script_name: ClassVar[str]
    """The name that users call. The error message begins with it."""

    # Type checkers take the arguments from the fields.
    if not TYPE_CHECKING:

        def __init__(self, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                message = describe_errors(type(self), error)
                raise UserError(f"{self.script_name}: {message}") from None

        # pydantic calls an __init__ when it validates nested models and JSON, unless this marks it
        # as BaseModel's own. There the error must stay pydantic's, which knows the whole key.
        __init__.__pydantic_base_init__ = True


class Choice(_ScriptModel):
    """A dimension with listed values. A grid search tries all of them."""

    script_name: ClassVar = "choice"
    kind: Literal["choice"] = "choice"
    values: tuple[Value, ...] = Field(min_length=1)

    @field_validator("values", mode="before")
    @classmethod
    def _check_values(cls, values: Any) -> Any:
        """Turn NumPy integers into int. Raise ValueError for NaN, infinity and other types.

        pydantic's own error would be about bool, the first type in `Value`.
        """
        if not isinstance(values, list | tuple):
            return values
        checked = []
        for value in values:
            if isinstance(value, Integral) and not isinstance(value, bool):
                value = int(value)
            if isinstance(value, float) and not isfinite(value):
                raise ValueError(f"{value} can't be tried; give a finite number")
            if value is not None and not isinstance(value, bool | int | float | str):
                raise ValueError(
                    f"{value!r} can't be tried as one value; give numbers or texts one by one, as "
                    "in choice(1, 2), or a list as a setting of a variant"
                )
            checked.append(value)
        # pydantic validates the result as a Python object, and strict mode then needs a tuple.
        return tuple(checked)


class Uniform(_ScriptModel):
    """A range that is sampled uniformly from `low` to `high`, or log-uniformly if `log` is true."""

    script_name: ClassVar = "uniform"
    kind: Literal["uniform"] = "uniform"
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _check_interval(self) -> "Uniform":
        if self.low >= self.high:
            raise ValueError(
                f"a range from {self.low} to {self.high} is empty; write the smaller number first"
            )
        if self.log and self.low <= 0:
            raise ValueError(
                f"a range from {self.low} to {self.high} has no logarithm; start above 0"
            )
        return self


Dimension = Annotated[Choice | Uniform, Field(discriminator="kind")]


def choice(*values: Value) -> Choice:
    """Return a dimension with these values."""
    return Choice(values=values)


def uniform(low: float, high: float) -> Uniform:
    """Return a dimension sampled uniformly between two numbers."""
    return Uniform(low=low, high=high)


def loguniform(low: float, high: float) -> Uniform:
    """Return a dimension sampled log-uniformly between two positive numbers."""
    return Uniform(low=low, high=high, log=True)


class Asha(_ScriptModel):
    """Asynchronous successive halving (arXiv 1810.05934).

    After 1, η, η²… times `grace_epochs` epochs, only the best 1/η of the trials continue. η is
    `reduction_factor`.
    """

    script_name: ClassVar = "Asha"
    grace_epochs: int = Field(1, ge=1)
    reduction_factor: int = Field(3, ge=2)


class Sweep(_ScriptModel):
    """A question, a search space, and how the space is searched to answer the question.

    Example:
        >>> Sweep(name="lr", space={"optimizer.lr": choice(0.001, 0.003)})
    """

    script_name: ClassVar = "Sweep"
    name: str
    """Name of the sweep and of its MLflow experiment."""
    question: str = ""
    """The question the sweep answers, shown in its report."""
    space: Mapping[str, Dimension] = {}
    """Dimensions by dotted key. If empty, the sweep is one trial."""
    variants: Mapping[str, Mapping[str, Any]] = {}
    """Settings that belong together, by name of the variant: `{simclr: {objective.name: simclr,
    optimizer.lr: 0.3}}`. The dimension `variant` of the space lists the names. Settings may be
    nested as in a preset; they are kept by dotted key. With `student.init: variant:OTHER`, a trial
    starts from the student of the trial with variant OTHER and otherwise the same values."""
    search: Literal["grid", "random", "optuna"] = "grid"
    """How the space is searched."""
    trials: int = Field(16, ge=1)
    """Number of trials of a random or optuna search. A grid has one for each combination."""
    seed: int = Field(0, ge=0)
    """Seed of the search itself, not of the trials."""
    metric: str = VAL_TOP1
    """The metric by which the best trial is selected; never one on test."""
    asha: Asha | None = None
    """Stop poor trials early by `zero_shot/val_top1`, which is reported every epoch."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} can't be the name of a folder; use at most 60 letters, digits, "
                "_, - and ."
            )
        if name in (".", ".."):
            raise ValueError(
                f"{name} means a folder that exists already; use letters or digits too"
            )
        return name

    @field_validator("space")
    @classmethod
    def _accept_old_names(cls, space: dict[str, Dimension]) -> dict[str, Dimension]:
        return current_names(space, announce=True)

    @field_validator("variants")
    @classmethod
    def _flatten_variants(cls, variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        flattened = {}
        for name, settings in variants.items():
            pairs = _flatten_sections(current_names(settings, announce=True))
            flattened[name] = flat = dict(pairs)
            given = [key for key, _ in pairs]
            repeated = [key for key in flat if given.count(key) > 1]
            if repeated:
                raise ValueError(
                    f"variant {name} gives {repeated[0]} twice, nested and with dots or under its "
                    "old name; keep one"
                )
        return flattened

    @model_validator(mode="after")
    def _check_search(self) -> "Sweep":
        ranges = [key for key, dimension in self.space.items() if isinstance(dimension, Uniform)]
        if self.search == "grid" and ranges:
            raise ValueError(
                f"{ranges[0]} is a range, but a grid needs listed values; list them, "
                "or search at random (--search random)"
            )
        self._check_variants()
        if "test" in self.metric:
            raise ValueError(
                f"metric {self.metric} is measured on test, which must not be used for selection; "
                "choose a metric on val"
            )
        return self

    def _check_variants(self) -> None:
        dimension = self.space.get("variant")
        listed = [str(value) for value in dimension.values] if isinstance(dimension, Choice) else []
        missing = [name for name in listed if name not in self.variants]
        advice = "define each in variants, and list its name in the space under variant"
        if missing:
            suggestion = nearest(missing[0], self.variants)
            raise ValueError(f"variant {missing[0]} does not exist{suggestion}; {advice}")
        if self.variants and not listed:
            raise ValueError(f"no trial takes a variant; {advice}")

    @property
    def varied(self) -> tuple[str, ...]:
        """All keys in which trials may differ: keys of the space and keys of the variants."""
        keys = list(self.space)
        for settings in self.variants.values():
            keys += settings
        # Without repeats, in order.
        return tuple(dict.fromkeys(keys))


def _flatten_sections(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return a variant's settings as pairs of dotted key and value; a key may occur twice.

    Sections are flattened. Settings that are mappings, such as `anchors.senses`, are kept as they
    are: their keys are class names and other words that may contain dots.
    """
    keys = known_keys(Experiment)
    pairs: list[tuple[str, Any]] = []
    for name, value in settings.items():
        key = f"{prefix}{name}"
        is_section = any(known.startswith(f"{key}.") for known in keys)
        if is_section and isinstance(value, Mapping):
            pairs += _flatten_sections(value, f"{key}.")
        else:
            pairs.append((key, value))
    return pairs

"""What a sweep is: a search space over dotted keys, and how it is searched."""

from collections.abc import Mapping
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from beamclip.config.base import Strict
from beamclip.config.errors import nearest
from beamclip.config.experiment import Experiment
from beamclip.config.metrics import VAL_TOP1
from beamclip.config.overrides import known_keys
from beamclip.config.renamed import current_names

Value = bool | int | float | str | None


class Choice(Strict):
    """One of a list of values; a grid search tries them all."""

    kind: Literal["choice"] = "choice"
    values: tuple[Value, ...] = Field(min_length=1)

    @field_validator("values", mode="before")
    @classmethod
    def _check_finite(cls, values: Any) -> Any:
        """Refuse infinity and NaN by name.

        pydantic's own error would be about bool, the first type in `Value`.
        """
        if not isinstance(values, list | tuple):
            return values
        for value in values:
            if isinstance(value, float) and not isfinite(value):
                raise ValueError(f"{value} is no number to try; give one that is finite")
        # What a before-validator returns is validated as Python, where a tuple must be a tuple.
        return tuple(values)


class Uniform(Strict):
    """A range to sample from, uniform between low and high, or log-uniform if `log` is true."""

    kind: Literal["uniform"] = "uniform"
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _check_interval(self) -> "Uniform":
        if not self.low < self.high or (self.log and self.low <= 0):
            scale = " on a logarithm" if self.log else ""
            raise ValueError(f"a range from {self.low} to {self.high} holds nothing to draw{scale}")
        return self


Dimension = Annotated[Choice | Uniform, Field(discriminator="kind")]


def choice(*values: Value) -> Choice:
    """Return a dimension that takes each of these values."""
    return Choice(values=values)


def uniform(low: float, high: float) -> Uniform:
    """Return a dimension sampled uniformly between two numbers."""
    return Uniform(low=low, high=high)


def loguniform(low: float, high: float) -> Uniform:
    """Return a dimension sampled log-uniformly between two positive numbers."""
    return Uniform(low=low, high=high, log=True)


class Asha(Strict):
    """Asynchronous successive halving (arXiv 1810.05934).

    After 1, η, η²… times `grace_epochs`, only the best 1/η of the trials continue.
    """

    grace_epochs: int = Field(1, ge=1)
    reduction_factor: int = Field(3, ge=2)


class Sweep(Strict):
    """A question, and the trials that answer it.

    Example:
        >>> Sweep(name="lr", space={"optimizer.lr": choice(0.001, 0.003)})
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,60}$")
    """Name of the sweep and of its MLflow experiment."""
    question: str = ""
    """The question the sweep answers, shown in its report."""
    space: dict[str, Dimension] = {}
    """Dimension by dotted key. Empty: one trial."""
    variants: dict[str, dict[str, Any]] = {}
    """Settings that only make sense together: `{simclr: {objective.name: simclr, optimizer.lr:
    0.3}}`. The dimension `variant` of the space lists their names. Sections may be nested as in a
    preset; they are stored by dotted keys. A variant with `student.init: variant:OTHER` starts
    from the student of that variant's trial with otherwise the same values."""
    search: Literal["grid", "random", "optuna"] = "grid"
    """How the space is searched."""
    trials: int = Field(16, ge=1)
    """Number of trials of a random or optuna search; a grid has one for each combination."""
    seed: int = Field(0, ge=0)
    """Seed of the search itself."""
    metric: str = VAL_TOP1
    """The metric that the best trial is selected by; never one on test."""
    asha: Asha | None = None
    """Stop poor trials early by `zero_shot/val_top1`, which every epoch reports."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name in (".", ".."):
            raise ValueError(
                f"{name} means a folder that exists already; use letters, digits, - and _ as well"
            )
        return name

    @field_validator("space")
    @classmethod
    def _accept_old_names(cls, space: dict[str, Dimension]) -> dict[str, Dimension]:
        return current_names(space, announce=True)

    @field_validator("variants")
    @classmethod
    def _flatten_variants(cls, variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {
            name: _flatten_sections(current_names(settings, announce=True))
            for name, settings in variants.items()
        }

    @model_validator(mode="after")
    def _check_search(self) -> "Sweep":
        ranges = [key for key, dimension in self.space.items() if isinstance(dimension, Uniform)]
        if self.search == "grid" and ranges:
            raise ValueError(
                f"{ranges[0]} is a range, which a grid can't walk; list its values, "
                "or search it at random (--search random)"
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
        advice = "name each in variants, and list them in the space under variant"
        if missing:
            suggestion = nearest(missing[0], self.variants)
            raise ValueError(f"variant {missing[0]} does not exist{suggestion}; {advice}")
        if self.variants and not listed:
            raise ValueError(f"no trial takes a variant; {advice}")

    @property
    def varied(self) -> tuple[str, ...]:
        """All keys that trials may differ in: those of the space and of the variants."""
        keys = list(self.space)
        for settings in self.variants.values():
            keys += settings
        return tuple(dict.fromkeys(keys))


def _flatten_sections(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a variant's settings by dotted keys.

    Sections are flattened. A setting that is itself a mapping is not, since its keys may contain
    dots, such as class names.
    """
    keys = known_keys(Experiment)
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        is_section = any(known.startswith(f"{key}.") for known in keys)
        if is_section and isinstance(value, Mapping):
            flat |= _flatten_sections(value, f"{key}.")
        else:
            flat[key] = value
    return flat

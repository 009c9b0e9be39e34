"""The dimensions of a search space: lists of values, and ranges that are drawn from."""

from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from beamclip.config.views import Strict

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
        return tuple(values) if isinstance(values, list) else values  # what stands before a check of pydantic's is no longer JSON to it


class Uniform(Strict):
    """Drawn between low and high; on the logarithm where `log` says so."""

    kind: Literal["uniform"] = "uniform"
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _is_an_interval(self) -> "Uniform":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"a range from {self.low} to {self.high} holds nothing to draw{' on a logarithm' if self.log else ''}")
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

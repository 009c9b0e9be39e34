"""Numbers that many settings are."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """Base of all configuration: unknown keys, wrong types and endless numbers are errors, values never change after they are checked."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )


Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]

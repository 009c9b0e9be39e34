"""The base class of all settings, and types that many of them share."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """Base class of all settings.

    Unknown keys, wrong types, infinity and NaN are errors. Settings are frozen: a value never
    changes after it was checked.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )

    def key_parts(
        self, include: set[str] | None = None, exclude: set[str] | None = None
    ) -> dict[str, Any]:
        """Return these settings as JSON values for the hash in a store's key.

        A setting that was renamed appears under its first name, its `serialization_alias`, so that
        stores built before the renaming keep their keys.

        Args:
            include: names of the fields to return; default all.
            exclude: names of the fields to leave out.
        """
        return self.model_dump(mode="json", by_alias=True, include=include, exclude=exclude)


Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]

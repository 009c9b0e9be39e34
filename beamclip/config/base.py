"""The base class of all settings, and types that many of them share."""

import ast
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """Base class of all settings.

    Unknown keys, wrong types, infinity and NaN are errors. Settings are frozen, so a value that was
    checked once stays valid.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        # No conversions: neither "1" nor True is accepted as a number.
        strict=True,
        allow_inf_nan=False,
        # pydantic trusts defaults otherwise; ours go through the same checks as users' values.
        validate_default=True,
        # pydantic's `use_attribute_docstrings` would look up the source of each model on import,
        # which takes a second in a process with torch. See `field_texts`.
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


def field_texts(node: ast.ClassDef) -> dict[str, str]:
    """Return the texts below the fields in the source of a class, by field name."""
    texts = {}
    for field, text in zip(node.body, node.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            texts[field.target.id] = str(text.value.value)
    return texts

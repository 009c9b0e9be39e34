"""Settings of what the student minimizes: one objective, or the weighted sum of several.

Each objective's own settings are in its file, `beamclip/objectives/NAME.py` for built-in ones. They
become the sections `objective.NAME` here.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import (
    ConfigDict,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from beamclip.config.base import Positive, Strict
from beamclip.config.errors import nearest
from beamclip.config.objective_registry import (
    Declaration,
    ObjectiveSettings,
    Requirements,
    built_in_objectives,
    find_objective,
    own_files,
    source_of,
)


class _ObjectiveConfig(Strict):
    """The loss that the student minimizes."""

    model_config = ConfigDict(extra="allow")  # sections of objectives from outside; checked below

    code: dict[str, str] = {}
    """Text of the files that `name` names, by path. Filled in when a sweep starts, so that workers
    on other machines and a later `--resume` run the same loss."""
    name: str = "csm"
    """A built-in objective, FILE.py:NAME for one of yours, the name of an installed entry point, or
    several joined by `+`: then their weighted sum."""
    terms: dict[str, Positive] = {}
    """Weights in a sum, `{simreg: 0.5}`; default 1."""
    teacher_temperature: Positive = 0.05
    """τ_T of `csm`: a low one passes on the best anchor only, a high one the whole ranking."""
    student_temperature: Positive = 0.05
    """τ_S of `csm`: a low one turns small differences between cosines into large ones."""

    @model_validator(mode="before")
    @classmethod
    def _accept_settings_objects(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {
            key: value.model_dump() if isinstance(value, ObjectiveSettings) else value
            for key, value in data.items()
        }

    @field_validator("name")
    @classmethod
    def _check_objectives_exist(cls, name: str, info: ValidationInfo) -> str:
        code = info.data.get("code", {})
        short_names = [find_objective(part, code).name for part in name.split("+")]
        if len(set(short_names)) < len(short_names):
            raise ValueError(
                f"{name} names an objective twice; to give one more weight, use objective.terms"
            )
        return name

    @model_validator(mode="after")
    def _check_own_sections(self) -> "_ObjectiveConfig":
        """Replace the sections of objectives from outside by their checked settings."""
        sections = self.__pydantic_extra__
        assert sections is not None
        outside = {found.name: found for found in self.declarations if found.name not in _BUILT_IN}
        for key in sections:
            if key not in outside:
                raise _error("extra_forbidden", "not a setting", (key,), sections[key])
        for name, declaration in outside.items():
            sections[name] = _settings(name, declaration.settings, sections.get(name, {}))
        return self

    @model_validator(mode="after")
    def _check_terms(self) -> "_ObjectiveConfig":
        known = {*_BUILT_IN, *self.parts}
        for name in self.terms:
            if name not in known:
                raise ValueError(
                    f"terms gives a weight to {name}, which is no objective{nearest(name, known)}"
                )
            if name not in self.parts:
                raise ValueError(
                    f"terms gives {name} a weight, but name is {self.name}; "
                    f"write name={self.name}+{name} or drop the weight"
                )
        return self

    @property
    def declarations(self) -> tuple[Declaration, ...]:
        """The declarations of the objectives in the sum, in order."""
        return tuple(find_objective(part, self.code) for part in self.name.split("+"))

    @property
    def parts(self) -> tuple[str, ...]:
        """The short names of the objectives in the sum."""
        return tuple(declaration.name for declaration in self.declarations)

    @property
    def label(self) -> str:
        """The short name of the objective or sum: `csm+my_loss`."""
        return "+".join(self.parts)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each objective in the sum, by short name."""
        return {part: self.terms.get(part, 1.0) for part in self.parts}

    @property
    def requirements(self) -> Requirements:
        """The union of what the objectives in the sum require."""
        together = Requirements()
        for declaration in self.declarations:
            together = together | declaration.requires
        return together

    @property
    def clusters(self) -> int | None:
        """The number of clusters that images are divided into; None if no objective needs them."""
        for declaration in self.declarations:
            if declaration.requires.clusters:
                return int(self.settings_of(declaration.name).clusters)
        return None

    def settings_of(self, name: str) -> Any:
        """Return the settings of one objective, by its short name."""
        return getattr(self, name)

    def files(self) -> dict[str, str]:
        """Return the text of the user's files in `name`, by path.

        Raises:
            ValueError: a file can't be read.
        """
        return {path: source_of(path, self.code) for path in own_files(self.name)}


_BUILT_IN = built_in_objectives()

if TYPE_CHECKING:

    class ObjectiveConfig(_ObjectiveConfig):
        """The loss that the student minimizes, with a section for each built-in objective."""

else:
    _sections: Any = {
        name: (declaration.settings, declaration.settings())
        for name, declaration in _BUILT_IN.items()
        if declaration.settings.model_fields
    }
    ObjectiveConfig = create_model(
        "ObjectiveConfig",
        __base__=_ObjectiveConfig,
        __module__=__name__,
        __doc__=_ObjectiveConfig.__doc__,
        **_sections,
    )


def _settings(name: str, model: type[ObjectiveSettings], values: Any) -> ObjectiveSettings:
    """Return the checked settings of an objective from outside."""
    if isinstance(values, ObjectiveSettings):
        values = values.model_dump()
    try:
        return model.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    kind = first["type"]
    message = first["msg"]
    if kind == "extra_forbidden":
        kind = "value_error"
        wrong = str(first["loc"][-1])
        message = f"{name} has no such setting{nearest(wrong, model.model_fields)}"
    location = (name, *first["loc"])
    raise _error(kind, message, location, first["input"], first.get("ctx"))


def _error(
    kind: str,
    message: str,
    location: tuple[int | str, ...],
    value: Any,
    context: dict[str, Any] | None = None,
) -> ValidationError:
    """Return an error of pydantic's about a key below `objective`."""
    details = InitErrorDetails(
        type=PydanticCustomError(kind, message, context),
        loc=location,
        input=value,
    )
    return ValidationError.from_exception_data("ObjectiveConfig", [details])

"""Settings of the loss that the student minimizes: one objective, or a weighted sum of several.

The settings of a single objective are declared in its own file, such as
`beamclip/objectives/simclr.py`. Here they become a section, such as `objective.simclr`.
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

    # For sections of external objectives, which are known only once `name` is.
    # `_check_external_sections` refuses all others.
    model_config = ConfigDict(extra="allow")

    code: dict[str, str] = {}
    """Text of the files in `name`, by path. Filled in when a sweep starts, so that workers on other
    machines and a later `--resume` run the same loss."""
    name: str = "csm"
    """A built-in objective, FILE.py:NAME for one of yours, or the name of an installed entry point.
    Several joined by `+` make a weighted sum."""
    terms: dict[str, Positive] = {}
    """Weights of the objectives in a sum, `{simreg: 0.5}`; default 1."""
    teacher_temperature: Positive = 0.05
    """τ_T of `csm`. If low, the student learns the best anchor only; if high, the whole ranking."""
    student_temperature: Positive = 0.05
    """τ_S of `csm`. If low, small differences between cosines become large ones."""

    @model_validator(mode="before")
    @classmethod
    def _accept_settings_objects(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        # The class that a program imports from an objective's module is not the one read from its
        # source, so strict validation would refuse its instances. Pass on their values.
        return {
            key: value.model_dump() if isinstance(value, ObjectiveSettings) else value
            for key, value in data.items()
        }

    @field_validator("name")
    @classmethod
    def _check_objectives_exist(cls, name: str, info: ValidationInfo) -> str:
        # `code` is missing here if it failed its own validation.
        code = info.data.get("code", {})
        short_names = []
        for part in name.split("+"):
            short_name = find_objective(part, code).name
            # The settings of an objective are in a section of its name, next to these attributes.
            is_taken = short_name in cls.model_fields or hasattr(cls, short_name)
            if short_name not in _BUILT_IN and (is_taken or not short_name.isidentifier()):
                raise ValueError(
                    f"{part} is called {short_name}, which can't name its section of settings; "
                    "give it another name"
                )
            short_names.append(short_name)
        if len(set(short_names)) < len(short_names):
            raise ValueError(
                f"{name} names an objective twice; to give one more weight, use objective.terms"
            )
        return name

    @model_validator(mode="after")
    def _check_external_sections(self) -> "_ObjectiveConfig":
        """Replace the sections of external objectives by their checked settings."""
        sections = self.__pydantic_extra__
        # Set by pydantic because of `extra="allow"`.
        assert sections is not None
        external = {
            declaration.name: declaration
            for declaration in self.declarations
            if declaration.name not in _BUILT_IN
        }
        for key in sections:
            if key not in external:
                raise _error("extra_forbidden", "not a setting", (key,), sections[key])
        # Also sections that are not given, so that saved settings contain their defaults.
        for name, declaration in external.items():
            sections[name] = _settings(name, declaration.settings, sections.get(name, {}))
        return self

    @model_validator(mode="after")
    def _check_terms(self) -> "_ObjectiveConfig":
        known = {*_BUILT_IN, *self.parts}
        for name in self.terms:
            if name not in known:
                raise ValueError(
                    f"terms gives a weight to {name}, which is not an objective"
                    f"{nearest(name, known)}"
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
        requirements = Requirements()
        for declaration in self.declarations:
            requirements = requirements | declaration.requires
        return requirements

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

# One section for each built-in objective with settings. Objectives are found, not listed, so the
# fields are only known at run time, and type checkers see a class without them.
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
    """Return the checked settings of an external objective.

    Args:
        name: short name of the objective.
        model: the model of its settings.
        values: the values that are given.

    Raises:
        ValidationError: the first error, with its key below `objective`.
    """
    if isinstance(values, ObjectiveSettings):
        values = values.model_dump()
    try:
        return model.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    kind = first["type"]
    message = first["msg"]
    # `validate` would suggest settings of beamclip only, so suggest this objective's here.
    if kind == "extra_forbidden":
        kind = "value_error"
        unknown = str(first["loc"][-1])
        message = f"{name} has no such setting{nearest(unknown, model.model_fields)}"
    location = (name, *first["loc"])
    raise _error(kind, message, location, first["input"], first.get("ctx"))


def _error(
    kind: str,
    message: str,
    location: tuple[int | str, ...],
    value: Any,
    context: dict[str, Any] | None = None,
) -> ValidationError:
    """Return a pydantic error about a key below `objective`.

    Unlike the ValueError of a validator, it names the key inside this section.
    """
    details = InitErrorDetails(
        type=PydanticCustomError(kind, message, context),
        loc=location,
        input=value,
    )
    return ValidationError.from_exception_data("ObjectiveConfig", [details])

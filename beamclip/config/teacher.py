"""Settings of the teachers, which are frozen CLIPs."""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from beamclip.config.base import Count, Positive, Strict

_Mean = Annotated[float, Field(ge=0, le=1)]
_Std = Annotated[float, Field(gt=0, le=1)]
# Settings that are newer than the first stores. At their default they are in no key.
_NEWER = ("mean", "std", "interpolation")


class TowerConfig(Strict):
    """A frozen CLIP: an open_clip model and tag, `local-dir:FOLDER`, `hf-hub:NAME`, or `demo`."""

    model: str = "ViT-B-32"
    """Name of the model."""
    pretrained: str | None = None
    """open_clip's tag, or a weights file. Ignored for a folder, a hub name or the demo, which come
    with their weights."""
    batch_size: Count | None = None
    """Images the teacher encodes at once. By default it is measured: the smallest batch that is
    nearly as fast as larger ones."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 on a GPU that supports it in hardware, else fp32."""
    mean: tuple[_Mean, _Mean, _Mean] | None = None
    """RGB mean by which the teacher's images are normalized, in 0-1. By default it is that of
    open_clip's tag, or the one in `open_clip_config.json`. A weights file has none, so it gets the
    mean that all tags of its model have; if they differ, it must be set."""
    std: tuple[_Std, _Std, _Std] | None = None
    """RGB standard deviation; the default is found as for `mean`."""
    interpolation: Literal["bicubic", "bilinear"] | None = None
    """How the teacher's images are resized; the default is found as for `mean`."""

    @field_validator("pretrained")
    @classmethod
    def _drop_unused_tag(cls, tag: str | None, info: ValidationInfo) -> str | None:
        """Drop a tag that the model doesn't use.

        With `--set teacher.model=local-dir:…`, the tag of the preset would otherwise remain, as if
        it named the weights in the folder.
        """
        model = str(info.data.get("model"))
        if model == "demo" or model.startswith(("local-dir:", "hf-hub:")):
            return None
        return tag

    @model_serializer(mode="wrap")
    def _keep_key_parts(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """Leave newer settings that are not set out of a dump by alias, which keys are made of."""
        values: dict[str, Any] = handler(self)
        if not info.by_alias:
            return values
        unset = {name for name in _NEWER if values.get(name) is None}
        return {name: value for name, value in values.items() if name not in unset}


class OtherTeacher(TowerConfig):
    """One more teacher, with its own temperature and anchors."""

    temperature: Positive | None = None
    """Its τ_T; default `objective.teacher_temperature`."""
    prompt_set: str | None = None
    """Prompt set of its anchors; default `anchors.prompt_set`."""


class TeacherConfig(TowerConfig):
    """The teacher, and others that teach with it."""

    others: tuple[OtherTeacher, ...] = ()
    """More teachers. With `csm` the student learns the mean of all teachers' probabilities, and its
    embeddings are compared with the first teacher's anchors. Other objectives use only the first
    teacher."""
    actors: tuple[Count, Count] | None = None
    """Smallest and largest number of processes that run the teacher over the images; default one
    per GPU, or one per four CPU cores."""

    @model_validator(mode="after")
    def _check_actors(self) -> "TeacherConfig":
        if self.actors is not None and self.actors[0] > self.actors[1]:
            raise ValueError(f"actors is {list(self.actors)}; write the smaller number first")
        return self

    def all(self) -> tuple[TowerConfig, ...]:
        """Return the first teacher and the others."""
        return (self, *self.others)

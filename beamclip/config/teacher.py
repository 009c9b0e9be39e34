"""Settings of the teachers: frozen CLIPs."""

from typing import Literal

from pydantic import ValidationInfo, field_validator, model_validator

from beamclip.config.base import Count, Positive, Strict


class TowerConfig(Strict):
    """A frozen CLIP: an open_clip model and tag, `local-dir:FOLDER`, `hf-hub:NAME`, or `demo`."""

    model: str = "ViT-B-32"
    """Name of the model."""
    pretrained: str | None = None
    """open_clip's tag, or a weights file; ignored for a folder, a hub name or the demo, which
    contain their weights."""
    batch_size: Count | None = None
    """Images the teacher encodes at once; default measured: the smallest that is nearly as fast as
    larger ones."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 on a GPU that supports it in hardware, else fp32."""

    @field_validator("pretrained")
    @classmethod
    def _drop_unused_tag(cls, tag: str | None, info: ValidationInfo) -> str | None:
        """Drop a tag that the model doesn't use.

        With `--set teacher.model=local-dir:…` over a preset, the preset's tag would remain and look
        as if it named the weights of the folder.
        """
        model = str(info.data.get("model"))
        if model == "demo" or model.startswith(("local-dir:", "hf-hub:")):
            return None
        return tag


class OtherTeacher(TowerConfig):
    """One more teacher, with its own temperature and anchors."""

    temperature: Positive | None = None
    """Its τ_T; default `objective.teacher_temperature`."""
    prompt_set: str | None = None
    """Prompt set of its anchors; default `anchors.prompt_set`."""


class TeacherConfig(TowerConfig):
    """The teacher, and others that teach with it."""

    others: tuple[OtherTeacher, ...] = ()
    """More teachers. With `csm` the student learns from the mean of all teachers' probabilities,
    and is compared with the first teacher's anchors. Other objectives use the first teacher
    only."""
    actors: tuple[Count, Count] | None = None
    """Fewest and most processes that run the teacher over the images; default one for each GPU, or
    one for every four CPU cores."""

    @model_validator(mode="after")
    def _check_actors(self) -> "TeacherConfig":
        if self.actors is not None and self.actors[0] > self.actors[1]:
            raise ValueError(
                f"actors runs from {self.actors[0]} down to {self.actors[1]}; "
                "write the smaller number first"
            )
        return self

    def all(self) -> tuple[TowerConfig, ...]:
        """Return the first teacher and the others."""
        return (self, *self.others)

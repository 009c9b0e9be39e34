"""Which frozen CLIPs teach."""

from typing import Literal

from pydantic import ValidationInfo, field_validator, model_validator

from beamclip.config.base import Count, Positive, Strict


class TowerConfig(Strict):
    """A frozen CLIP: an open_clip model name with a tag, `local-dir:FOLDER`, `hf-hub:NAME`, or `demo`."""

    model: str = "ViT-B-32"
    pretrained: str | None = None
    """open_clip's tag (or a weights file); dropped with a folder, a hub name or the demo, which need none."""
    batch_size: Count | None = None
    """Images the teacher encodes at once; default the smallest that is nearly as fast as larger ones, found by trying."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 on a GPU that has it in hardware, else fp32."""

    @field_validator("pretrained")
    @classmethod
    def _no_tag_without_use(cls, tag: str | None, info: ValidationInfo) -> str | None:
        """A preset's tag would be taken for the weights of a folder that was put in the place of the preset's model."""
        model = str(info.data.get("model"))
        return None if model == "demo" or model.startswith(("local-dir:", "hf-hub:")) else tag


class OtherTeacher(TowerConfig):
    """One more teacher, with its own temperature and anchors."""

    temperature: Positive | None = None
    """Its τ_T; default `objective.teacher_temperature`."""
    prompt_set: str | None = None
    """Its anchors' prompt set; default `anchors.prompt_set`."""


class TeacherConfig(TowerConfig):
    """The teacher, and others that teach with it."""

    others: tuple[OtherTeacher, ...] = ()
    """More teachers: by `csm` the student learns from the mean of all teachers' probabilities, and matches the first one's anchors. Other
    objectives know the first teacher alone."""
    actors: tuple[Count, Count] | None = None
    """Fewest and most processes that run the teacher over the images; default one a GPU, or one for every four CPU cores."""

    @model_validator(mode="after")
    def _actors_are_in_order(self) -> "TeacherConfig":
        if self.actors is not None and self.actors[0] > self.actors[1]:
            raise ValueError(
                f"actors runs from {self.actors[0]} down to {self.actors[1]}; write the smaller number first"
            )
        return self

    def all(self) -> tuple[TowerConfig, ...]:
        """The first teacher and the others."""
        return (self, *self.others)

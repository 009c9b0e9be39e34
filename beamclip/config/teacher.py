"""Settings of the teachers, which are frozen CLIPs."""

from typing import Literal

from pydantic import ValidationInfo, field_validator, model_validator

from beamclip.config.base import Count, Positive, Strict


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

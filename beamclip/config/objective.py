"""What the student minimises: one objective, or the weighted sum of several."""

from pydantic import field_validator, model_validator

from beamclip.config.errors import nearest
from beamclip.config.needs import NEEDS, Needs
from beamclip.config.numbers import Positive
from beamclip.config.objectives import (
    ClipCidConfig,
    CompressConfig,
    ImageQueueConfig,
    SeedConfig,
    SimclrConfig,
    SupervisedConfig,
    SwavConfig,
)
from beamclip.config.views import Strict


class ObjectiveConfig(Strict):
    """What the student minimises."""

    name: str = "csm"
    """`csm`, `simreg`, `feature`, `seed`, `compress`, `image_queue`, `clip_cid`, `simclr`, `swav`, `supervised`, or several joined by
    `+`: then their weighted sum."""
    terms: dict[str, Positive] = {}
    """Weights in a sum, `{simreg: 0.5}`; 1 where none is given."""
    teacher_temperature: Positive = 0.05
    """τ_T of `csm`: low passes on the winning anchor only, high the whole ranking."""
    student_temperature: Positive = 0.05
    """τ_S of `csm`: low lets small differences between cosines say much."""
    simclr: SimclrConfig = SimclrConfig()
    swav: SwavConfig = SwavConfig()
    supervised: SupervisedConfig = SupervisedConfig()
    seed: SeedConfig = SeedConfig()
    compress: CompressConfig = CompressConfig()
    image_queue: ImageQueueConfig = ImageQueueConfig()
    clip_cid: ClipCidConfig = ClipCidConfig()

    @field_validator("name")
    @classmethod
    def _objectives_exist(cls, name: str) -> str:
        parts = name.split("+")
        for part in parts:
            if part not in NEEDS:
                raise ValueError(f"objective {part or repr(name)} does not exist{nearest(part, NEEDS)}")
        if len(set(parts)) < len(parts):
            raise ValueError(f"{name} names an objective twice; beside another one it can be given a weight in objective.terms")
        return name

    @model_validator(mode="after")
    def _weights_have_terms(self) -> "ObjectiveConfig":
        for name in self.terms:
            if name not in NEEDS:
                raise ValueError(f"terms gives a weight to {name}, which is no objective{nearest(name, NEEDS)}")
            if name not in self.parts:
                raise ValueError(f"terms gives {name} a weight, but name is {self.name}; write name={self.name}+{name} or drop the weight")
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """The names in a sum, or the one name."""
        return tuple(self.name.split("+"))

    @property
    def weights(self) -> dict[str, float]:
        """Of each part."""
        return {part: self.terms.get(part, 1.0) for part in self.parts}

    @property
    def needs(self) -> Needs:
        """What its parts need together."""
        together = Needs()
        for part in self.parts:
            together = together | NEEDS[part]
        return together

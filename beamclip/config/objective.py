"""What the student minimises: one objective, or the weighted sum of several."""

from dataclasses import dataclass, fields
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from beamclip.config.base import Count, Positive, Strict
from beamclip.config.errors import nearest

# What each objective has to be shown of a step. Everything else follows from it: views, stores, workers' memory.


@dataclass(frozen=True)
class Requirements:
    """What an objective has to be shown of every step.

    Attributes:
        views: large views of each image.
        crops: the recipe's small crops too, where it has any.
        projected: the student's embeddings in the teacher's space. Where false, the projector is not trained.
        embeddings: the teacher's embeddings of the same views.
        anchors: text embeddings of the classes.
        labels: each image's class.
        clusters: k-means of the teacher's embeddings, and each image's cluster.
        all_teachers: all teachers' embeddings and anchors; else the first one's alone.
    """

    views: int = 1
    crops: bool = False
    projected: bool = False
    embeddings: bool = False
    anchors: bool = False
    labels: bool = False
    clusters: bool = False
    all_teachers: bool = False

    def __or__(self, other: "Requirements") -> "Requirements":
        """What both together need."""
        return Requirements(
            **{f.name: max(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        )


_DISTILLED = Requirements(projected=True, embeddings=True)

REQUIREMENTS: dict[str, Requirements] = {
    "csm": Requirements(projected=True, embeddings=True, anchors=True, all_teachers=True),
    "simreg": _DISTILLED,
    "feature": _DISTILLED,
    "seed": _DISTILLED,
    "compress": _DISTILLED,
    "image_queue": _DISTILLED,
    "clip_cid": Requirements(projected=True, embeddings=True, anchors=True, clusters=True),
    "simclr": Requirements(views=2),
    "swav": Requirements(views=2, crops=True),
    "supervised": Requirements(labels=True),
}


# The settings of each objective. The numbers are the papers'; see docs/methods.md.


class SimclrConfig(Strict):
    """NT-Xent over two views of each image (arXiv 2002.05709)."""

    temperature: Positive = 0.5
    """τ; the authors' is 0.1 on ImageNet and 0.5 on CIFAR."""
    width: Count = 128
    """Of the head's output."""
    hidden: Count = 2048
    """Hidden width of the head; as wide as a ResNet-50's features in the paper."""
    layers: int = Field(2, ge=2, le=3)
    """Of the head: 2 in SimCLR, 3 in SimCLR v2."""


class SwavConfig(Strict):
    """Swapped prediction of prototype assignments (arXiv 2006.09882)."""

    temperature: Positive = 0.1
    prototypes: Annotated[int, Field(ge=2)] = 3000
    """The authors' for ImageNet's 1,000 classes; a tenth is plenty for ten."""
    width: Count = 128
    hidden: Count = 2048
    epsilon: Positive = 0.05
    """ε of Sinkhorn: lower gives sharper assignments."""
    sinkhorn_iterations: Count = 3
    frozen_epochs: float = Field(1.0, ge=0)
    """So long the prototypes stay as they were drawn."""
    queue: int = Field(0, ge=0)
    """Earlier embeddings of each view that take part in Sinkhorn, for small batches; the authors use 3,840 at a batch of 256. 0: none."""
    queue_from_epoch: float = Field(15.0, ge=0)
    """From when on the queue takes part."""


class SupervisedConfig(Strict):
    """Cross-entropy on the labels."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)


class QueueConfig(Strict):
    """A queue of the teacher's embeddings of earlier images, over which both sides' similarities are compared."""

    queue: Count | None = None
    """Length; default the authors', or the number of training images where that is less."""
    teacher_temperature: Positive
    student_temperature: Positive


class SeedConfig(QueueConfig):
    """SEED (arXiv 2101.04731): the queue and the image's own embedding; the authors' length is 65,536."""

    teacher_temperature: Positive = 1e-4
    student_temperature: Positive = 0.2


class CompressConfig(QueueConfig):
    """CompRess-1q (arXiv 2010.14713); the authors' length is 128,000."""

    queue: Annotated[int, Field(ge=2)] | None = None
    """Length; default the authors', or the number of training images where that is less."""
    teacher_temperature: Positive = 0.04
    student_temperature: Positive = 0.04


class ImageQueueConfig(QueueConfig):
    """CSM with images in place of texts, as LightlyTrain's first distillation: the queue includes the batch; its length is 8,192."""

    queue: Annotated[int, Field(ge=2)] | None = None
    """Length; default the authors', or the number of training images where that is less."""
    teacher_temperature: Positive = 0.07
    student_temperature: Positive = 0.07


class ClipCidConfig(Strict):
    """Cluster-instance discrimination (arXiv 2408.09441). The paper gives none of these numbers; see docs/methods.md."""

    clusters: Annotated[int, Field(ge=2)] = 100
    """K of k-means over the teacher's embeddings of the training images."""
    scale: Positive = 32.0
    """s, what cosines are multiplied by before the softmax over centres (UNICOM's)."""
    margin: float = Field(0.0, ge=0, lt=1)
    """m, taken from the cosine with an image's own centre; UNICOM adds 0.3 to the angle instead."""
    negatives: Count | None = None
    """Draw at least so many centres a step beside those of the batch; default all."""
    label_weight: float = Field(1.0, ge=0)
    """Of the cross-entropy on the cluster's number."""
    kl_weight: float = Field(1.0, ge=0)
    """Of the KL between the teacher's and the student's distributions over the centres."""
    instance_weight: float = Field(1.0, ge=0)
    """Of the image-text relations within the batch."""
    temperature: Positive = 0.05
    """Of both sides' distributions, over centres and over the batch."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> "ClipCidConfig":
        if not self.label_weight + self.kl_weight + self.instance_weight:
            raise ValueError(
                "label_weight, kl_weight and instance_weight are all 0, which leaves nothing to learn; set one above 0"
            )
        return self


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
            if part not in REQUIREMENTS:
                raise ValueError(
                    f"objective {part or repr(name)} does not exist{nearest(part, REQUIREMENTS)}"
                )
        if len(set(parts)) < len(parts):
            raise ValueError(
                f"{name} names an objective twice; beside another one it can be given a weight in objective.terms"
            )
        return name

    @model_validator(mode="after")
    def _weights_have_terms(self) -> "ObjectiveConfig":
        for name in self.terms:
            if name not in REQUIREMENTS:
                raise ValueError(
                    f"terms gives a weight to {name}, which is no objective{nearest(name, REQUIREMENTS)}"
                )
            if name not in self.parts:
                raise ValueError(
                    f"terms gives {name} a weight, but name is {self.name}; write name={self.name}+{name} or drop the weight"
                )
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
    def needs(self) -> Requirements:
        """What its parts need together."""
        together = Requirements()
        for part in self.parts:
            together = together | REQUIREMENTS[part]
        return together

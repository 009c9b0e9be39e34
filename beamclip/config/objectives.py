"""The settings of each objective. The numbers are the papers'; see docs/methods.md."""

from typing import Annotated

from pydantic import Field, model_validator

from beamclip.config.numbers import Count, Positive
from beamclip.config.views import Strict


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
            raise ValueError("label_weight, kl_weight and instance_weight are all 0, which leaves nothing to learn; set one above 0")
        return self

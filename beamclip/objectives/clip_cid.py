"""Cluster-instance discrimination, our reading of CLIP-CID (arXiv 2408.09441).

k-means over the teacher's embeddings assigns each image x to a cluster c(x). z_k are the centers.

    P(a, b)_k   = softmax_k(cos(a, b_k) / τ)
    cluster     = -mean_x log softmax_k(s (cos(g_S(x), z_k) - m [k = c(x)]))_c(x)
    cluster_kl  = mean_x KL(P(f_T(x), z) || P(g_S(x), z))
    instance    = ½ mean_i KL(P(f_T(x_i), t) || P(g_S(x_i), t))
                + ½ mean_j KL(P(t_j, f_T(x)) || P(t_j, g_S(x)))
    L           = label_weight · cluster + kl_weight · cluster_kl + instance_weight · instance

t_i is the text of image i. Images have no captions here, so the anchor nearest to f_T(x_i) takes
its place: the teacher's own zero-shot prediction. A text that several images share is repeated for
each of them. i and j run over the batches of all workers. Only the first teacher is used.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from beamclip.config.base import Count, Positive
from beamclip.config.objective_registry import ObjectiveSettings, Requirements, register_objective
from beamclip.objectives.base import LossContext, LossInputs, Objective
from beamclip.objectives.gather import gather_rows
from beamclip.objectives.queue import divergence, unit

_SEEDS_PER_EPOCH = 2**20
"""Number of seeds of the random negatives per epoch, more than an epoch has steps."""


class ClipCidSettings(ObjectiveSettings):
    """Cluster-instance discrimination (arXiv 2408.09441).

    The paper gives none of these numbers; see docs/methods.md.
    """

    clusters: Annotated[int, Field(ge=2)] = 100
    """Number of clusters K of k-means over the teacher's embeddings of the training images."""
    scale: Positive = 32.0
    """Factor s of the cosines in the softmax over centers; the value is UNICOM's."""
    margin: float = Field(0.0, ge=0, lt=1)
    """Margin m, subtracted from the cosine of an image and its own center. UNICOM adds 0.3 to the
    angle instead."""
    negatives: Count | None = None
    """Smallest number of centers drawn in a step, in addition to those of the batch; default all
    centers."""
    label_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy that predicts the image's cluster."""
    kl_weight: float = Field(1.0, ge=0)
    """Weight of the KL between the teacher's and the student's distributions over the centers."""
    instance_weight: float = Field(1.0, ge=0)
    """Weight of the image-text relations within the batch."""
    temperature: Positive = 0.05
    """Temperature of both sides' distributions, over centers and over the batch."""

    @model_validator(mode="after")
    def _check_weights(self) -> "ClipCidSettings":
        if not self.label_weight + self.kl_weight + self.instance_weight:
            raise ValueError(
                "label_weight, kl_weight and instance_weight are all 0, which leaves nothing to "
                "learn; set one above 0"
            )
        return self


@register_objective(
    "clip_cid",
    settings=ClipCidSettings,
    requires=Requirements(projected=True, embeddings=True, anchors=True, clusters=True),
)
class ClusterInstanceDiscrimination(Objective):
    """Discriminate clusters, and match the teacher's image-text similarities within the batch.

    Args:
        settings: scale, margin, temperature, weights. A term of weight 0 is neither computed nor
            logged.
        centers: z_k, normalized or not, [clusters, D].
        anchors: text embeddings of the classes, normalized or not, [K, D]. Each image is assigned
            one of them as its text.
    """

    centers: Tensor
    anchors: Tensor

    def __init__(self, settings: ClipCidSettings, centers: Tensor, anchors: Tensor) -> None:
        super().__init__()
        self.settings = settings
        # Not persistent: read from their stores, never from a checkpoint.
        self.register_buffer("centers", unit(centers), persistent=False)
        self.register_buffer("anchors", unit(anchors), persistent=False)
        # All workers build the objective with the run's seed, so they draw the same negatives.
        self.seed = int(torch.randint(2**31, (), device="cpu"))

    @classmethod
    def build(
        cls, settings: ClipCidSettings, context: LossContext
    ) -> "ClusterInstanceDiscrimination":
        """Build the objective from its settings."""
        assert context.centers is not None
        return cls(settings, context.centers, context.anchors[0])

    def forward(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Return "loss" and, before their weights, "cluster", "cluster_kl" and "instance"."""
        assert inputs.embeddings is not None
        assert inputs.clusters is not None
        with torch.autocast(inputs.embeddings.device.type, enabled=False):
            student = unit(inputs.embeddings)
            teacher = unit(inputs.teachers[0].detach())
            views = len(student) // inputs.count
            clusters = inputs.clusters.repeat(views)
            terms = self._cluster_terms(student, teacher, clusters, inputs.epoch)
            terms |= self._instance_terms(student, teacher)
            weighted = [self._weights[name] * value for name, value in terms.items()]
        return {"loss": sum(weighted[1:], start=weighted[0]), **terms}

    @property
    def _weights(self) -> dict[str, float]:
        return {
            "cluster": self.settings.label_weight,
            "cluster_kl": self.settings.kl_weight,
            "instance": self.settings.instance_weight,
        }

    def _cluster_terms(
        self, student: Tensor, teacher: Tensor, clusters: Tensor, epoch: float
    ) -> dict[str, Tensor]:
        """Return "cluster" and "cluster_kl", the terms over the centers.

        Args:
            student: unit length, [N, D].
            teacher: unit length, [N, D].
            clusters: cluster of each row, int64 [N].
            epoch: training progress in epochs.
        """
        columns, positions = self._columns(clusters, epoch)
        centers = self.centers[columns]
        cosines = student @ centers.T
        terms = {}
        if self.settings.label_weight:
            margins = self.settings.margin * F.one_hot(positions, len(columns))
            logits = self.settings.scale * (cosines - margins)
            terms["cluster"] = F.cross_entropy(logits, positions)
        if self.settings.kl_weight:
            temperature = self.settings.temperature
            teacher_cosines = teacher @ centers.T
            terms["cluster_kl"] = divergence(cosines / temperature, teacher_cosines / temperature)
        return terms

    @torch.no_grad()
    def _columns(self, clusters: Tensor, epoch: float) -> tuple[Tensor, Tensor]:
        """Draw the centers of this step, as in PartialFC.

        The centers of all workers' images always take part. The others are drawn at random.

        Args:
            clusters: cluster of each of this worker's rows, int64 [N].
            epoch: training progress in epochs.

        Returns:
            The clusters whose centers take part, [C], and the position of each row's own cluster
            among them, [N].
        """
        total = len(self.centers)
        batch_clusters = gather_rows(clusters)
        negatives = self.settings.negatives
        if negatives is None or negatives + len(batch_clusters) >= total:
            return torch.arange(total, device=clusters.device), clusters
        # The seed depends on the progress, so a resumed run draws the same centers.
        generator = torch.Generator(clusters.device)
        generator.manual_seed(self.seed + round(epoch * _SEEDS_PER_EPOCH))
        priorities = torch.rand(total, device=clusters.device, generator=generator)
        # Above all random numbers, which are below 1: the centers of the batch come first.
        priorities = priorities.index_fill(0, batch_clusters, 2.0)
        # C = negatives + batch size, even if rows of the batch share a center. The number of
        # distinct ones would have to be read from the device, and the training loop would wait.
        columns = priorities.topk(negatives + len(batch_clusters)).indices
        numbers = torch.arange(len(columns), device=columns.device)
        position_of_cluster = clusters.new_zeros(total).index_copy(0, columns, numbers)
        return columns, position_of_cluster[clusters]

    def _instance_terms(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Return "instance", the term over the images and texts of the batch.

        This worker's images are compared with the texts of all workers, and its texts with the
        images of all workers.

        Args:
            student: unit length, [N, D].
            teacher: unit length, [N, D].
        """
        if not self.settings.instance_weight:
            return {}
        temperature = self.settings.temperature
        nearest_anchors = (teacher @ self.anchors.T).argmax(dim=-1)
        texts = self.anchors[nearest_anchors]
        all_texts = gather_rows(texts)
        all_teachers = gather_rows(teacher)
        all_students = gather_rows(student)
        to_text = divergence(
            student @ all_texts.T / temperature, teacher @ all_texts.T / temperature
        )
        to_image = divergence(
            texts @ all_students.T / temperature, texts @ all_teachers.T / temperature
        )
        return {"instance": (to_text + to_image) / 2}

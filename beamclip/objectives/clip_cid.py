"""Cluster-instance discrimination, our reading of CLIP-CID (arXiv 2408.09441).

k-means gives each image x one cluster c(x); z_k are the clusters' centers.

    P(a, b)_k   = softmax_k(cos(a, b_k) / τ)
    cluster     = -mean_x log softmax_k(s (cos(g_S(x), z_k) - m [k = c(x)]))_c(x)
    cluster_kl  = mean_x KL(P(f_T(x), z) || P(g_S(x), z))
    instance    = half of mean_i KL(P(f_T(x_i), t) || P(g_S(x_i), t))
                + half of mean_j KL(P(t_j, f_T(x)) || P(t_j, g_S(x)))
    L           = their weighted sum

t_i is the text of image i. Images here have no captions, so it is the anchor nearest to f_T(x_i):
what the teacher would call the image. If several images have the same text, it counts as often as
it occurs. i and j run over the batches of all workers. Only the first teacher is used.
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

_MOMENTS = 2**20
"""An epoch is divided into this many moments, each with its own random negatives."""


class ClipCidSettings(ObjectiveSettings):
    """Cluster-instance discrimination (arXiv 2408.09441).

    The paper gives none of these numbers; see docs/methods.md.
    """

    clusters: Annotated[int, Field(ge=2)] = 100
    """K of k-means over the teacher's embeddings of the training images."""
    scale: Positive = 32.0
    """s, by which cosines are multiplied before the softmax over centers (UNICOM's)."""
    margin: float = Field(0.0, ge=0, lt=1)
    """m, subtracted from the cosine with an image's own center; UNICOM adds 0.3 to the angle
    instead."""
    negatives: Count | None = None
    """Smallest number of centers drawn in a step in addition to those of the batch; default all."""
    label_weight: float = Field(1.0, ge=0)
    """Weight of the cross-entropy on the cluster's number."""
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
    """Discriminate clusters, and match image-text relations within the batch.

    Args:
        settings: scale, margin, temperature, weights. A term of weight 0 is neither computed nor
            reported.
        centres: z_k, [clusters, D].
        anchors: texts, of which each image is given one, [K, D].
    """

    centres: Tensor
    anchors: Tensor

    def __init__(self, settings: ClipCidSettings, centres: Tensor, anchors: Tensor) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("centres", unit(centres), persistent=False)
        self.register_buffer("anchors", unit(anchors), persistent=False)
        # Drawn from the run's own generator, so it is the same on every worker.
        self.seed = int(torch.randint(2**31, (), device="cpu"))

    @classmethod
    def build(
        cls, settings: ClipCidSettings, context: LossContext
    ) -> "ClusterInstanceDiscrimination":
        """Build the objective."""
        assert context.centres is not None
        return cls(settings, context.centres, context.anchors[0])

    def forward(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Return the loss and its terms."""
        assert inputs.embeddings is not None
        assert inputs.clusters is not None
        with torch.autocast(inputs.embeddings.device.type, enabled=False):
            student = unit(inputs.embeddings)
            teacher = unit(inputs.teachers[0].detach())
            clusters = inputs.clusters.repeat(len(student) // inputs.count)
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
        """Return the terms over centers: which cluster is it, and how near are the others."""
        columns, own = self._columns(clusters, epoch)
        centres = self.centres[columns]
        cosines = student @ centres.T
        terms = {}
        if self.settings.label_weight:
            margins = self.settings.margin * F.one_hot(own, len(columns))
            terms["cluster"] = F.cross_entropy(self.settings.scale * (cosines - margins), own)
        if self.settings.kl_weight:
            temperature = self.settings.temperature
            terms["cluster_kl"] = divergence(
                cosines / temperature, teacher @ centres.T / temperature
            )
        return terms

    @torch.no_grad()
    def _columns(self, clusters: Tensor, epoch: float) -> tuple[Tensor, Tensor]:
        """Return the centers of this step, and the position of each image's own among them.

        As in PartialFC, the centers of all workers' images always take part; the others are drawn.
        The number of columns is fixed, so the loop never waits for the device: if images share a
        center, there is room for more of the others.
        """
        count = len(self.centres)
        batch_clusters = gather_rows(clusters)
        negatives = self.settings.negatives
        if negatives is None or negatives + len(batch_clusters) >= count:
            return torch.arange(count, device=clusters.device), clusters
        generator = torch.Generator(clusters.device)
        generator.manual_seed(self.seed + round(epoch * _MOMENTS))
        chances = torch.rand(count, device=clusters.device, generator=generator)
        chances = chances.index_fill(0, batch_clusters, 2.0)
        columns = chances.topk(negatives + len(batch_clusters)).indices
        numbers = torch.arange(len(columns), device=columns.device)
        positions = clusters.new_zeros(count).index_copy(0, columns, numbers)
        return columns, positions[clusters]

    def _instance_terms(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Return the term over the batch: which text belongs to which image.

        This worker's images are compared with all texts, and its texts with all images.
        """
        if not self.settings.instance_weight:
            return {}
        temperature = self.settings.temperature
        texts = self.anchors[(teacher @ self.anchors.T).argmax(dim=-1)]
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

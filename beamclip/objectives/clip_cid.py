"""Cluster-instance discrimination, our reading of CLIP-CID (arXiv 2408.09441). k-means gives each image x one cluster c(x).

    cluster     = -mean_x log softmax_k(s (cos(g_S(x), z_k) - m [k = c(x)]))_c(x)                  z_k the clusters' centres
    cluster_kl  = mean_x KL(softmax_k(cos(f_T(x), z_k) / τ) || softmax_k(cos(g_S(x), z_k) / τ))
    instance    = half of mean_i KL(softmax_j(cos(f_T(x_i), t_j) / τ) || softmax_j(cos(g_S(x_i), t_j) / τ))
                + half of mean_j KL(softmax_i(cos(f_T(x_i), t_j) / τ) || softmax_i(cos(g_S(x_i), t_j) / τ))
    L           = their weighted sum

t_i is the text of image i: images here have none, so it is the anchor nearest to f_T(x_i), what the teacher would call it. Images of one
text then repeat it, which counts it as often as it is there. i and j run over the batches of all workers. Only the first teacher speaks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from beamclip.config import ClipCidConfig
from beamclip.objectives.base import LossInputs, Objective
from beamclip.objectives.gather import gather_rows
from beamclip.objectives.queue import divergence, unit

_MOMENTS = 2**20  # an epoch is divided so finely when moments are told apart


class ClusterInstanceDiscrimination(Objective):
    """See the module.

    Args:
        config: scale, margin, temperature, weights. A term of weight 0 is neither computed nor reported.
        centres: z_k, [clusters, D].
        anchors: texts of which each image is given one, [K, D].
    """

    centres: Tensor
    anchors: Tensor

    def __init__(self, config: ClipCidConfig, centres: Tensor, anchors: Tensor) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("centres", unit(centres), persistent=False)
        self.register_buffer("anchors", unit(anchors), persistent=False)
        self.seed = int(
            torch.randint(2**31, (), device="cpu")
        )  # drawn where all of a run's weights are: the same on every worker

    def forward(self, seen: LossInputs) -> dict[str, Tensor]:
        """See `Objective`."""
        assert seen.embeddings is not None
        assert seen.clusters is not None
        with torch.autocast(seen.embeddings.device.type, enabled=False):
            student, teacher = unit(seen.embeddings), unit(seen.teachers[0].detach())
            clusters = seen.clusters.repeat(len(student) // seen.count)
            terms = self._cluster_terms(
                student, teacher, clusters, seen.epoch
            ) | self._instance_terms(student, teacher)
            weighted = [self._weights[name] * value for name, value in terms.items()]
        return {"loss": sum(weighted[1:], start=weighted[0]), **terms}

    @property
    def _weights(self) -> dict[str, float]:
        c = self.config
        return {"cluster": c.label_weight, "cluster_kl": c.kl_weight, "instance": c.instance_weight}

    def _cluster_terms(
        self, student: Tensor, teacher: Tensor, clusters: Tensor, epoch: float
    ) -> dict[str, Tensor]:
        """Cluster discrimination: which one is it, and how near are the others?"""
        columns, own = self._columns(clusters, epoch)
        centres = self.centres[columns]
        cosines, terms = student @ centres.T, {}
        if self.config.label_weight:
            margins = self.config.margin * F.one_hot(own, len(columns))
            terms["cluster"] = F.cross_entropy(self.config.scale * (cosines - margins), own)
        if self.config.kl_weight:
            terms["cluster_kl"] = divergence(
                cosines / self.config.temperature, teacher @ centres.T / self.config.temperature
            )
        return terms

    @torch.no_grad()
    def _columns(self, clusters: Tensor, epoch: float) -> tuple[Tensor, Tensor]:
        """The centres that take part in this step, and where among them each image's own is.

        As in PartialFC, those of all workers' images always do; the others are drawn. The number of columns is fixed beforehand, so that
        nobody waits for the device: images that share a centre leave room for more of the others.
        """
        count, there = len(self.centres), gather_rows(clusters)
        if self.config.negatives is None or self.config.negatives + len(there) >= count:
            return torch.arange(count, device=clusters.device), clusters
        generator = torch.Generator(clusters.device).manual_seed(
            self.seed + round(epoch * _MOMENTS)
        )
        chances = torch.rand(count, device=clusters.device, generator=generator)
        columns = chances.index_fill(0, there, 2.0).topk(self.config.negatives + len(there)).indices
        places = clusters.new_zeros(count).index_copy(
            0, columns, torch.arange(len(columns), device=columns.device)
        )
        return columns, places[clusters]

    def _instance_terms(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Instance discrimination: which text goes with which image? This worker's images over all texts, its texts over all images."""
        if not self.config.instance_weight:
            return {}
        texts, temperature = (
            self.anchors[(teacher @ self.anchors.T).argmax(dim=-1)],
            self.config.temperature,
        )
        all_texts, all_taught = gather_rows(texts), gather_rows(teacher)
        all_students = gather_rows(student)
        to_text = divergence(
            student @ all_texts.T / temperature, teacher @ all_texts.T / temperature
        )
        to_image = divergence(
            texts @ all_students.T / temperature, texts @ all_taught.T / temperature
        )
        return {"instance": (to_text + to_image) / 2}

"""SwAV (arXiv 2006.09882; authors' code github.com/facebookresearch/swav).

    z   = unit-length output of a head on the backbone's features; prototypes c_k are unit vectors, learnt
    s_k = <z, c_k>          scores
    q   = Sinkhorn(s / ε)   codes of a large view: rows are distributions over prototypes, and all prototypes are used equally
    L   = mean over large views v, and over all other views and crops w, of  -Σ_k q_k(v) log softmax_k(s(w) / τ)

A batch that is small beside the number of prototypes can't use them equally, so earlier embeddings of the same view may take part in
Sinkhorn. That queue is where SwAV is known to break: zeros in it are images that favour no prototype, and a queue that is missing
after a restart changes all codes. Ours is filled from the first step, is in the checkpoint, and takes part only once it is full; codes
are made in fp32 or better from logarithms, where exp(s / ε) can't overflow however small ε is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beamclip.config import SwavConfig
from beamclip.objectives.base import LossInputs, Objective
from beamclip.objectives.gather import gather_rows, workers
from beamclip.objectives.queue import Queue

LARGE = 2  # views that give codes


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Codes: scores / ε made into distributions over prototypes that use all prototypes equally, in fp32 or better.

    Each iteration scales prototypes, then samples, to equal shares; so samples' shares are exact and prototypes' nearly so.

    Args:
        scores: [N, K].

    Returns:
        [N, K], rows add up to 1.
    """
    log_codes = (
        scores.to(torch.float64 if scores.dtype == torch.float64 else torch.float32) / epsilon
    )
    for _ in range(iterations):
        log_codes = log_codes - log_codes.logsumexp(dim=0, keepdim=True)
        log_codes = log_codes.log_softmax(dim=1)
    return log_codes.exp()


def swapped_prediction(scores: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of every other view's prediction of a large view's code, mean over pairs and images.

    Args:
        scores: [views, B, K], large views first.
        codes: [2, B, K] of the large views.
        temperature: τ > 0.
    """
    log_p = (scores / temperature).log_softmax(dim=-1)
    others = log_p.sum(dim=0) - log_p[:LARGE]  # of all views but the one that gives the code
    loss: Tensor = -(codes * others).sum(dim=-1).mean() / (len(scores) - 1)
    return loss


def prototype_usage(scores: Tensor) -> Tensor:
    """exp(entropy) of how often each prototype is the nearest, as a share of what N rows can use: 1 = equally, near 0 = collapsed.

    Codes can't show a collapse, because Sinkhorn uses all prototypes whatever the embeddings are.

    Args:
        scores: [N, K].
    """
    nearest = scores.argmax(dim=-1)
    uses = torch.zeros_like(scores[0]).index_add(0, nearest, torch.ones_like(scores[:, 0]))
    entropy: Tensor = torch.special.entr(uses / len(scores)).sum()
    return entropy.exp() / min(scores.shape)


class SwAV(Objective):
    """Make views predict which prototypes the other views of the same image belong to.

    Args:
        features: F, the width of the backbone's features.
        config: head, prototypes, Sinkhorn, queue.
    """

    def __init__(self, features: int, config: SwavConfig) -> None:
        super().__init__()
        self.config = config
        hidden = nn.Linear(features, config.hidden)
        self.head = nn.Sequential(
            hidden, nn.BatchNorm1d(config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.width)
        )
        self.prototypes = nn.Parameter(
            F.normalize(torch.randn(config.prototypes, config.width), dim=-1)
        )
        self.queue = Queue(
            config.queue, LARGE * config.width
        )  # a row is an image: its large views side by side
        self._frozen = False

    def forward(self, seen: LossInputs) -> dict[str, Tensor]:
        """See `Objective`. Beside the loss: `prototype_usage` of the large views of all workers."""
        with torch.autocast(seen.features.device.type, enabled=False):
            features = (
                seen.features if seen.crops is None else torch.cat([seen.features, seen.crops])
            )
            projected = F.normalize(self.head(features.to(self.prototypes.dtype)), dim=-1)
            return self.compare(projected.view(-1, seen.count, self.config.width), seen.epoch)

    def compare(self, projected: Tensor, epoch: float) -> dict[str, Tensor]:
        """The loss of this worker's views.

        Args:
            projected: unit length, [views, B, D], large views first; B the same on every worker.
            epoch: how far training is.
        """
        with torch.no_grad():  # before every step, as the authors do; so weight decay never turns or shrinks them either
            self.prototypes.copy_(F.normalize(self.prototypes, dim=-1))
        self._frozen = epoch < self.config.frozen_epochs
        # A gradient of zero, not none: DDP waits for one.
        prototypes = (
            self.prototypes.detach() + 0 * self.prototypes if self._frozen else self.prototypes
        )
        codes, usage = self._codes(projected[:LARGE].detach(), epoch)
        return {
            "loss": swapped_prediction(projected @ prototypes.T, codes, self.config.temperature),
            "prototype_usage": usage,
        }

    def after_backward(self) -> None:
        """Frozen prototypes lose their gradient of zero: Adam would remember it, and take long steps for a while once they thaw."""
        if self._frozen:
            self.prototypes.grad = None

    @torch.no_grad()
    def _codes(self, views: Tensor, epoch: float) -> tuple[Tensor, Tensor]:
        """Codes of this worker's large views, [2, B, K]; usage. Every worker makes the codes of all, so that one and many agree."""
        images = gather_rows(views.transpose(0, 1).flatten(1))  # [N, 2 · D]
        count, total, start = views.shape[1], len(images), workers()[0] * views.shape[1]
        known = torch.cat([images, self.queue.rows]) if self._queue_takes_part(epoch) else images
        scores = known.view(len(known), LARGE, -1).transpose(0, 1) @ self.prototypes.T
        codes = [
            sinkhorn(one, self.config.epsilon, self.config.sinkhorn_iterations)[
                start : start + count
            ]
            for one in scores
        ]
        if self.training:
            self.queue.push(images)
        return torch.stack(codes), prototype_usage(scores[:, :total].flatten(0, 1))

    def _queue_takes_part(self, epoch: float) -> bool:
        return (
            epoch >= self.config.queue_from_epoch and len(self.queue.rows) == self.config.queue > 0
        )

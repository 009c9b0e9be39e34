"""SwAV (arXiv 2006.09882; authors' code github.com/facebookresearch/swav).

    z   = head(features), unit length
    s_k = <z, c_k>              scores; the prototypes c_k are learned unit vectors
    q   = Sinkhorn(s / ε)       codes of a large view: they use all prototypes equally
    L   = mean_{v, w} -Σ_k q_k(v) log softmax_k(s(w) / τ)

v are the large views, w all other views and crops of the same image.

A batch with fewer images than prototypes can't use them equally, so earlier embeddings of the same
view may take part in Sinkhorn. That queue is where SwAV is known to break: zeros in it are images
that favor no prototype, and a queue that is missing after a restart changes all codes. Ours is
filled from the first step, is in the checkpoint, and takes part only once it is full. Codes are
computed in fp32 or better from logarithms, where exp(s / ε) can't overflow for small ε.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from beamclip.config.base import Count, Positive
from beamclip.config.errors import UserError
from beamclip.config.objective_registry import ObjectiveSettings, Requirements, register_objective
from beamclip.objectives.base import LossContext, LossInputs, Objective
from beamclip.objectives.gather import gather_rows, workers
from beamclip.objectives.queue import Queue

LARGE = 2
"""Number of large views, which give the codes."""


class SwavSettings(ObjectiveSettings):
    """Swapped prediction of prototype assignments (arXiv 2006.09882)."""

    temperature: Positive = 0.1
    prototypes: Annotated[int, Field(ge=2)] = 3000
    """The authors' number for ImageNet's 1,000 classes; a tenth is plenty for ten."""
    width: Count = 128
    hidden: Count = 2048
    epsilon: Positive = 0.05
    """ε of Sinkhorn: a lower one gives sharper assignments."""
    sinkhorn_iterations: Count = 3
    frozen_epochs: float = Field(1.0, ge=0)
    """Epochs in which the prototypes keep their first values."""
    queue: int = Field(0, ge=0)
    """Earlier embeddings of each view that take part in Sinkhorn, for small batches; the authors
    use 3,840 at a batch of 256. 0: none."""
    queue_from_epoch: float = Field(15.0, ge=0)
    """Epoch from which the queue takes part."""


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Return codes: scores / ε as distributions over prototypes that use all of them equally.

    Each iteration scales prototypes, then samples, to equal shares. So the samples' shares are
    exact and the prototypes' nearly so. Computed in fp32 or better.

    Args:
        scores: [N, K].
        epsilon: ε > 0.
        iterations: at least 1.

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
    """Return the cross-entropy of all other views' predictions of a large view's code.

    It is the mean over pairs of views and over images.

    Args:
        scores: [views, B, K], large views first.
        codes: [2, B, K] of the large views.
        temperature: τ > 0.
    """
    log_p = (scores / temperature).log_softmax(dim=-1)
    # The sum over all views but the one that gives the code.
    others = log_p.sum(dim=0) - log_p[:LARGE]
    loss: Tensor = -(codes * others).sum(dim=-1).mean() / (len(scores) - 1)
    return loss


def prototype_usage(scores: Tensor) -> Tensor:
    """Return exp(entropy) of how often each prototype is the nearest, as a share of the possible.

    1 means equal use, near 0 collapse. Codes can't show a collapse, because Sinkhorn uses all
    prototypes for any embeddings.

    Args:
        scores: [N, K].
    """
    nearest = scores.argmax(dim=-1)
    uses = torch.zeros_like(scores[0]).index_add(0, nearest, torch.ones_like(scores[:, 0]))
    entropy: Tensor = torch.special.entr(uses / len(scores)).sum()
    return entropy.exp() / min(scores.shape)


@register_objective("swav", settings=SwavSettings, requires=Requirements(views=2, crops=True))
class SwAV(Objective):
    """Make views predict the prototypes that other views of the same image are assigned to.

    Args:
        features: F, the width of the backbone's features.
        settings: head, prototypes, Sinkhorn, queue.
    """

    def __init__(self, features: int, settings: SwavSettings) -> None:
        super().__init__()
        self.settings = settings
        self.head = nn.Sequential(
            nn.Linear(features, settings.hidden),
            nn.BatchNorm1d(settings.hidden),
            nn.ReLU(),
            nn.Linear(settings.hidden, settings.width),
        )
        prototypes = torch.randn(settings.prototypes, settings.width)
        self.prototypes = nn.Parameter(F.normalize(prototypes, dim=-1))
        # A row of the queue is an image: its large views side by side.
        self.queue = Queue(settings.queue, LARGE * settings.width)
        self._frozen = False

    @classmethod
    def build(cls, settings: SwavSettings, context: LossContext) -> "SwAV":
        """Build the objective.

        Raises:
            UserError: the queue is longer than the training images.
        """
        if settings.queue > context.train_images:
            raise UserError(
                f"objective.swav.queue is {settings.queue}, but there are {context.train_images} "
                f"training images; give {context.train_images} or fewer, or 0 for none"
            )
        return cls(context.features, settings)

    def forward(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Return the loss, and `prototype_usage` of the large views of all workers."""
        with torch.autocast(inputs.features.device.type, enabled=False):
            features = inputs.features
            if inputs.crops is not None:
                features = torch.cat([features, inputs.crops])
            projected = F.normalize(self.head(features.to(self.prototypes.dtype)), dim=-1)
            views = projected.view(-1, inputs.count, self.settings.width)
            return self.compare(views, inputs.epoch)

    def compare(self, projected: Tensor, epoch: float) -> dict[str, Tensor]:
        """Return the loss of this worker's views.

        Args:
            projected: unit length, [views, B, D], large views first; B is the same on every worker.
            epoch: progress of training, in epochs.
        """
        with torch.no_grad():
            # Before every step, as the authors do; so weight decay never turns or shrinks them.
            self.prototypes.copy_(F.normalize(self.prototypes, dim=-1))
        self._frozen = epoch < self.settings.frozen_epochs
        prototypes: Tensor = self.prototypes
        if self._frozen:
            # A gradient of zero, not none: DDP waits for one.
            prototypes = self.prototypes.detach() + 0 * self.prototypes
        codes, usage = self._codes(projected[:LARGE].detach(), epoch)
        loss = swapped_prediction(projected @ prototypes.T, codes, self.settings.temperature)
        return {"loss": loss, "prototype_usage": usage}

    def after_backward(self) -> None:
        """Drop the zero gradient of frozen prototypes.

        Adam would count it, and take long steps for a while after they are released.
        """
        if self._frozen:
            self.prototypes.grad = None

    @torch.no_grad()
    def _codes(self, views: Tensor, epoch: float) -> tuple[Tensor, Tensor]:
        """Return the codes of this worker's large views, [2, B, K], and the prototype usage.

        Every worker computes the codes of all images, so that one worker and many agree.
        """
        images = gather_rows(views.transpose(0, 1).flatten(1))  # [N, 2 · D]
        count = views.shape[1]
        start = workers()[0] * count
        rows = images
        if self._queue_takes_part(epoch):
            rows = torch.cat([images, self.queue.rows])
        scores = rows.view(len(rows), LARGE, -1).transpose(0, 1) @ self.prototypes.T
        codes = []
        for view_scores in scores:
            all_codes = sinkhorn(
                view_scores, self.settings.epsilon, self.settings.sinkhorn_iterations
            )
            codes.append(all_codes[start : start + count])
        if self.training:
            self.queue.push(images)
        return torch.stack(codes), prototype_usage(scores[:, : len(images)].flatten(0, 1))

    def _queue_takes_part(self, epoch: float) -> bool:
        is_full = len(self.queue.rows) == self.settings.queue > 0
        return epoch >= self.settings.queue_from_epoch and is_full

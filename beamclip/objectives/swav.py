"""SwAV (arXiv 2006.09882; authors' code github.com/facebookresearch/swav).

    z   = head(features), unit length
    s_k = <z, c_k>              scores; the prototypes c_k are learned unit vectors
    q   = Sinkhorn(s / ε)       codes of the large views: they use all prototypes equally
    L   = mean_{v, w} -Σ_k q_k(v) log softmax_k(s(w) / τ)

v are the large views of an image, w are all its views and crops other than v.

A batch with fewer images than prototypes can't use all prototypes equally. So embeddings of earlier
images, from a queue, may take part in Sinkhorn. This queue is where SwAV is known to break: one
that starts with zeros holds images that favor no prototype, and one that is lost on restart changes
all codes. Ours is filled from the first step, takes part only when it is full, and is in the
checkpoint.

Sinkhorn is computed with logarithms in fp32 or better, because exp(s / ε) overflows for small ε.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from beamclip.config.base import Count, Positive
from beamclip.config.errors import UserError
from beamclip.config.objective_registry import ObjectiveSettings, Requirements, register_objective
from beamclip.objectives.base import LossContext, LossInputs, Objective, at_least_fp32
from beamclip.objectives.gather import gather_rows, workers
from beamclip.objectives.queue import Queue

LARGE = 2
"""Number of large views. Only they have codes."""


class SwavSettings(ObjectiveSettings):
    """Swapped prediction of prototype assignments (arXiv 2006.09882)."""

    temperature: Positive = 0.1
    """Temperature τ of the predictions."""
    prototypes: Annotated[int, Field(ge=2)] = 3000
    """Number of prototypes. The default is the authors' for ImageNet's 1,000 classes; for ten
    classes a tenth of it is plenty."""
    width: Count = 128
    """Width of the head's output and of the prototypes."""
    hidden: Count = 2048
    """Hidden width of the head."""
    epsilon: Positive = 0.05
    """ε of Sinkhorn. A smaller value gives sharper codes."""
    sinkhorn_iterations: Count = 3
    """Number of Sinkhorn iterations."""
    frozen_epochs: float = Field(1.0, ge=0)
    """Number of epochs, from the start, in which the prototypes are not trained."""
    queue: int = Field(0, ge=0)
    """Number of earlier images whose embeddings also take part in Sinkhorn, for small batches. The
    authors use 3,840 at a batch of 256. 0: none."""
    queue_from_epoch: float = Field(15.0, ge=0)
    """Epoch from which the queue takes part."""


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Return codes: for each sample a distribution over prototypes, using all of them equally.

    Each iteration scales the columns (prototypes) and then the rows (samples) of exp(scores / ε) to
    equal sums. At the end rows sum to 1 exactly and columns to N / K approximately.

    Args:
        scores: similarities of samples and prototypes, [N, K].
        epsilon: ε > 0.
        iterations: number of iterations, at least 1.

    Returns:
        [N, K] in fp32, or fp64 if the scores are.
    """
    log_codes = at_least_fp32(scores) / epsilon
    for _ in range(iterations):
        log_codes = log_codes - log_codes.logsumexp(dim=0, keepdim=True)
        log_codes = log_codes.log_softmax(dim=1)
    return log_codes.exp()


def swapped_prediction(scores: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of the large views' codes and the other views' predictions.

    It is the mean over all pairs of a large view and another view, and over images.

    Args:
        scores: scores of all views, [V, B, K], large views first.
        codes: codes of the large views, [2, B, K].
        temperature: τ > 0, dimensionless.
    """
    log_p = (scores / temperature).log_softmax(dim=-1)
    # For each large view, the sum over all other views.
    log_p_of_others = log_p.sum(dim=0) - log_p[:LARGE]
    loss: Tensor = -(codes * log_p_of_others).sum(dim=-1).mean() / (len(scores) - 1)
    return loss


def prototype_usage(scores: Tensor) -> Tensor:
    """Return how evenly prototypes are used: 1 if all equally, near 0 after a collapse.

    It is exp(entropy) of the distribution of nearest prototypes, divided by its largest possible
    value. Codes can't show a collapse, because Sinkhorn uses all prototypes for any embeddings.

    Args:
        scores: [N, K].

    Returns:
        A scalar in (0, 1].
    """
    nearest = scores.argmax(dim=-1)
    # Not bincount, which makes the host wait for a GPU to learn the size of its result.
    uses = torch.zeros_like(scores[0]).index_add(0, nearest, torch.ones_like(scores[:, 0]))
    entropy: Tensor = torch.special.entr(uses / len(scores)).sum()
    # N samples can use at most N of the K prototypes.
    return entropy.exp() / min(scores.shape)


@register_objective("swav", settings=SwavSettings, requires=Requirements(views=2, crops=True))
class SwAV(Objective):
    """Make each view predict the codes of the other views of the same image.

    Args:
        features: width F of the backbone's features.
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
        # A row of the queue is one image: the embeddings of its large views side by side.
        self.queue = Queue(settings.queue, LARGE * settings.width)
        self._frozen = False

    @classmethod
    def build(cls, settings: SwavSettings, context: LossContext) -> "SwAV":
        """Build the objective.

        Raises:
            UserError: the queue is longer than the number of training images.
        """
        if settings.queue > context.train_images:
            raise UserError(
                f"objective.swav.queue is {settings.queue}, but there are {context.train_images} "
                f"training images; give {context.train_images} or fewer, or 0 for none"
            )
        return cls(context.features, settings)

    def forward(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Return "loss", and "prototype_usage" of the large views of all workers."""
        with torch.autocast(inputs.features.device.type, enabled=False):
            features = inputs.features
            if inputs.crops is not None:
                features = torch.cat([features, inputs.crops])
            projected = F.normalize(self.head(features.to(self.prototypes.dtype)), dim=-1)
            views = projected.view(-1, inputs.count, self.settings.width)
            return self.compare(views, inputs.epoch)

    def compare(self, projected: Tensor, epoch: float) -> dict[str, Tensor]:
        """Return "loss" of this worker's views, and "prototype_usage".

        Args:
            projected: the head's outputs, unit length, [V, B, D], large views first and with the
                same B on every worker.
            epoch: training progress in epochs.
        """
        with torch.no_grad():
            # Before every step, as the authors do, since the optimizer changes the lengths.
            self.prototypes.copy_(F.normalize(self.prototypes, dim=-1))
        self._frozen = epoch < self.settings.frozen_epochs
        prototypes: Tensor = self.prototypes
        if self._frozen:
            # DDP waits for a gradient of every parameter, so frozen ones get a gradient of zero.
            prototypes = self.prototypes.detach() + 0 * self.prototypes
        codes, usage = self._codes(projected[:LARGE].detach(), epoch)
        loss = swapped_prediction(projected @ prototypes.T, codes, self.settings.temperature)
        return {"loss": loss, "prototype_usage": usage}

    def after_backward(self) -> None:
        """Drop the zero gradient of frozen prototypes."""
        # Adam would average zeros into its second moment and take too long steps after the frozen
        # epochs. SGD would apply weight decay.
        if self._frozen:
            self.prototypes.grad = None

    @torch.no_grad()
    def _codes(self, views: Tensor, epoch: float) -> tuple[Tensor, Tensor]:
        """Return the codes of this worker's large views, [2, B, K], and the prototype usage.

        Args:
            views: this worker's large views, unit length, [2, B, D].
            epoch: training progress in epochs.
        """
        # Every worker computes the codes of the whole batch, so that they don't depend on the
        # number of workers.
        images = gather_rows(views.transpose(0, 1).flatten(1))  # [N, 2 · D]
        rows = images
        queue_is_full = len(self.queue.rows) == self.settings.queue > 0
        if queue_is_full and epoch >= self.settings.queue_from_epoch:
            rows = torch.cat([images, self.queue.rows])
        scores = rows.view(len(rows), LARGE, -1).transpose(0, 1) @ self.prototypes.T

        # Keep the codes of this worker's images.
        count = views.shape[1]
        rank, _ = workers()
        codes = []
        for view_scores in scores:
            all_codes = sinkhorn(
                view_scores, self.settings.epsilon, self.settings.sinkhorn_iterations
            )
            codes.append(all_codes[rank * count : (rank + 1) * count])

        if self.training:
            self.queue.push(images)
        batch_scores = scores[:, : len(images)].flatten(0, 1)
        return torch.stack(codes), prototype_usage(batch_scores)

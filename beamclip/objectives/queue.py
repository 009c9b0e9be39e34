"""A queue of teacher embeddings of earlier images, and the base class of distillation over one."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from beamclip.config.base import Count, Positive
from beamclip.config.errors import UserError
from beamclip.config.objective_registry import ObjectiveSettings
from beamclip.objectives.base import Distillation, LossContext
from beamclip.objectives.gather import gather_rows


class QueueSettings(ObjectiveSettings):
    """A queue of the teacher's embeddings of earlier images, with which both sides are compared."""

    queue: Count | None = None
    """Length; default the authors', or the number of training images if that is less."""
    teacher_temperature: Positive
    student_temperature: Positive


class LongQueueSettings(QueueSettings):
    """Settings of a queue that needs at least two rows."""

    queue: Annotated[int, Field(ge=2)] | None = None
    """Length; default the authors', or the number of training images if that is less."""


def unit(rows: Tensor) -> Tensor:
    """Return rows scaled to length 1, in fp32 or better; `similarity_logits` says why not less."""
    return F.normalize(rows if rows.dtype == torch.float64 else rows.float(), dim=-1)


def divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return mean KL(softmax(teacher) || softmax(student)) over the rows of two [N, K].

    The teacher gets no gradient.
    """
    target = teacher_logits.detach().log_softmax(dim=-1)
    log_p = student_logits.log_softmax(dim=-1)
    return F.kl_div(log_p, target, reduction="batchmean", log_target=True)


def queue_length(name: str, wanted: int | None, authors: int, train_images: int) -> int:
    """Return the length of an objective's queue.

    Args:
        name: the objective's.
        wanted: the setting; None for the default.
        authors: the authors' length.
        train_images: number of training images.

    Raises:
        UserError: the queue would be longer than there are images.
    """
    if wanted is not None and wanted > train_images:
        raise UserError(
            f"objective.{name}.queue is {wanted}, but there are {train_images} training images; "
            f"give {train_images} or fewer, or null"
        )
    return wanted or min(authors, train_images)


class Queue(nn.Module):
    """The last `length` rows that were pushed, the newest first: `rows`, [up to length, width].

    The buffer grows while it fills, so its shape says how many rows are real without asking the
    device. Every push makes a new tensor, because the old one may be needed by a backward pass.

    Args:
        length: largest number of rows.
        width: of a row.
    """

    rows: Tensor

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.length = length
        self.register_buffer("rows", torch.empty(0, width))

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Keep these rows [n, width], and as many of the earlier ones as fit."""
        newest = rows[: self.length].to(self.rows.dtype)
        self.rows = torch.cat([newest, self.rows[: self.length - len(newest)]])

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(f"{prefix}rows")
        if saved is not None:
            # torch refuses a buffer of another shape, and the queue may have grown since.
            self.rows = self.rows.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class QueueDistillation(Distillation):
    """Compare student and teacher by their similarities to teacher embeddings of earlier images.

    With several teachers only the first one, whose space is the student's, is compared and kept.
    All workers keep the rows of all, so the queue does not depend on their number. It grows in
    training only. While it is empty, the first batch takes its place.

    Args:
        length: of the queue.
        width: D.
        teacher_temperature: τ_T > 0, dimensionless.
        student_temperature: τ_S > 0, dimensionless.
    """

    authors_length: ClassVar[int]
    """The length in the authors' code."""

    def __init__(
        self, length: int, width: int, teacher_temperature: float, student_temperature: float
    ) -> None:
        super().__init__()
        self.queue = Queue(length, width)
        self.teacher_temperature = teacher_temperature
        self.student_temperature = student_temperature

    @classmethod
    def build(cls, settings: QueueSettings, context: LossContext) -> "QueueDistillation":
        """Build the objective.

        Raises:
            UserError: the queue would be longer than there are training images.
        """
        name = cls.__beamclip_objective__.name  # type: ignore[attr-defined]
        length = queue_length(name, settings.queue, cls.authors_length, context.train_images)
        return cls(
            length, context.width, settings.teacher_temperature, settings.student_temperature
        )

    def match(self, student: Tensor, *teachers: Tensor) -> dict[str, Tensor]:
        """Return the loss of this batch, and push the teacher's embeddings while training."""
        with torch.autocast(student.device.type, enabled=False):
            student = unit(student)
            teacher = unit(teachers[0].detach())
            batch = gather_rows(teacher)
            loss = self.compare(student, teacher, batch)
            if self.training:
                self.queue.push(batch)
        return {"loss": loss}

    def compare(self, student: Tensor, teacher: Tensor, batch: Tensor) -> Tensor:
        """Return the loss.

        Args:
            student: unit rows of this worker, [N, D].
            teacher: likewise.
            batch: the teacher's rows of all workers, not yet in the queue.
        """
        raise NotImplementedError

    def earlier(self, batch: Tensor) -> Tensor:
        """Return the rows of the queue, or the batch while the queue is empty."""
        return self.queue.rows if len(self.queue.rows) else batch

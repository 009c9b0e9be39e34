"""The queue of earlier embeddings, and the base class of objectives that use it."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from beamclip.config.base import Count, Positive
from beamclip.config.errors import UserError
from beamclip.config.objective_registry import ObjectiveSettings
from beamclip.objectives.base import Distillation, LossContext, at_least_fp32
from beamclip.objectives.gather import gather_rows


class QueueSettings(ObjectiveSettings):
    """Settings of objectives that compare student and teacher with a queue of earlier images."""

    queue: Count | None = None
    """Number of rows; default the authors' number, or the number of training images if that is
    less."""
    teacher_temperature: Positive
    """τ_T of the teacher's softmax."""
    student_temperature: Positive
    """τ_S of the student's softmax."""


class LongQueueSettings(QueueSettings):
    """Settings of objectives whose queue needs two rows, since a softmax over one is always 1."""

    queue: Annotated[int, Field(ge=2)] | None = None
    """Number of rows; default the authors' number, or the number of training images if that is
    less."""


def unit(rows: Tensor) -> Tensor:
    """Return rows [N, D] scaled to unit length, in fp32 or better."""
    return F.normalize(at_least_fp32(rows), dim=-1)


def divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the mean of KL(softmax(teacher) || softmax(student)) over the rows.

    Args:
        student_logits: [N, K].
        teacher_logits: [N, K]; they get no gradient.
    """
    target = teacher_logits.detach().log_softmax(dim=-1)
    log_p = student_logits.log_softmax(dim=-1)
    return F.kl_div(log_p, target, reduction="batchmean", log_target=True)


def queue_length(name: str, requested: int | None, authors_length: int, train_images: int) -> int:
    """Return the length of an objective's queue.

    Args:
        name: name of the objective, for the message.
        requested: the setting `objective.NAME.queue`; None for the default.
        authors_length: the default, limited to `train_images`.
        train_images: number of training images.

    Raises:
        UserError: the requested queue is longer than the number of training images.
    """
    if requested is not None and requested > train_images:
        raise UserError(
            f"objective.{name}.queue is {requested}, but there are {train_images} training "
            f"images; give {train_images} or fewer, or null"
        )
    return requested or min(authors_length, train_images)


class Queue(nn.Module):
    """The rows that were pushed last, the newest batch first.

    They are the persistent buffer `rows`, [0 … length, width]. The buffer grows while the queue
    fills. So its shape says how many rows there are, which a counter on the device could only say
    after a synchronization.

    Args:
        length: largest number of rows.
        width: width of a row.
    """

    rows: Tensor

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.length = length
        self.register_buffer("rows", torch.empty(0, width))

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Put rows [n, width] in front and drop the oldest rows that don't fit."""
        newest = rows[: self.length].to(self.rows.dtype)
        # Not in place: the backward pass of this step may still need the old rows.
        self.rows = torch.cat([newest, self.rows[: self.length - len(newest)]])

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(f"{prefix}rows")
        if saved is not None:
            # torch only loads buffers of equal shape, and the saved queue has its own length.
            self.rows = self.rows.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class QueueDistillation(Distillation):
    """Base class: match the similarities of student and teacher to a queue of earlier images.

    The queue holds the teacher's embeddings and is filled in training mode only. Every worker adds
    the rows of all workers, so the queue doesn't depend on their number. With several teachers only
    the first one is used, since the student's embeddings are in its space.

    Args:
        length: largest number of rows of the queue.
        width: width D of the embeddings.
        teacher_temperature: τ_T > 0, dimensionless.
        student_temperature: τ_S > 0, dimensionless.
    """

    authors_length: ClassVar[int]
    """Length of the queue in the authors' code, which is the default."""

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
            UserError: the queue is longer than the number of training images.
        """
        # Attached by `register_objective`.
        name = cls.__beamclip_objective__.name  # type: ignore[attr-defined]
        length = queue_length(name, settings.queue, cls.authors_length, context.train_images)
        return cls(
            length, context.width, settings.teacher_temperature, settings.student_temperature
        )

    def match(self, student: Tensor, *teachers: Tensor) -> dict[str, Tensor]:
        """Return "loss". In training mode, also push the teacher's embeddings to the queue."""
        with torch.autocast(student.device.type, enabled=False):
            student = unit(student)
            teacher = unit(teachers[0].detach())
            batch = gather_rows(teacher)
            loss = self.compare(student, teacher, batch)
            if self.training:
                self.queue.push(batch)
        return {"loss": loss}

    def compare(self, student: Tensor, teacher: Tensor, batch: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            student: the student's embeddings on this worker, unit length, [N, D].
            teacher: the teacher's embeddings on this worker, unit length, [N, D].
            batch: the teacher's embeddings on all workers, unit length, [workers · N, D]. They are
                not yet in the queue.
        """
        raise NotImplementedError

    def earlier(self, batch: Tensor) -> Tensor:
        """Return the rows of the queue, or in the first step, when it is empty, the batch."""
        return self.queue.rows if len(self.queue.rows) else batch

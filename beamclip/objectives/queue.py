"""A queue of teacher embeddings of earlier images, and what distillation over one has in common."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beamclip.config import UserError
from beamclip.objectives.base import Distillation
from beamclip.objectives.gather import gather_rows


def unit(rows: Tensor) -> Tensor:
    """Rows of length 1 in fp32 or better; see `similarity_logits` for why not less."""
    return F.normalize(rows if rows.dtype == torch.float64 else rows.float(), dim=-1)


def divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """mean KL(softmax(teacher) || softmax(student)) over the rows of [N, K] each, without a gradient for the teacher."""
    target = teacher_logits.detach().log_softmax(dim=-1)
    return F.kl_div(
        student_logits.log_softmax(dim=-1), target, reduction="batchmean", log_target=True
    )


def queue_length(name: str, wanted: int | None, authors: int, train_images: int) -> int:
    """How many rows objective `name` keeps: what was asked for, else the authors' number or one for each training image.

    Raises:
        UserError: more rows are asked for than there are images.
    """
    if wanted is not None and wanted > train_images:
        raise UserError(
            f"objective.{name}.queue is {wanted}, but there are {train_images} training images; give {train_images} or fewer, or null"
        )
    return wanted or min(authors, train_images)


class Queue(nn.Module):
    """The last `length` rows that were pushed, the newest first: `rows`, [up to length, width].

    The buffer grows while it fills, so that its shape says how much of it is real and nobody has to ask the device. It is a new tensor
    after every push: the old one may be waiting for a backward pass.

    Args:
        length: how many rows it holds at most.
        width: of a row.
    """

    rows: Tensor

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.length = length
        self.register_buffer("rows", torch.empty(0, width))

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Keep these [n, width], and as many of the earlier ones as there is room for."""
        newest = rows[: self.length].to(self.rows.dtype)
        self.rows = torch.cat([newest, self.rows[: self.length - len(newest)]])

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        if (kept := state_dict.get(f"{prefix}rows")) is not None:
            self.rows = self.rows.new_empty(kept.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class QueueDistillation(Distillation):
    """Compare how student and teacher see an image beside many others, which are the teacher's embeddings of earlier images.

    With several teachers only the first one, whose space is the student's, is compared and kept. All workers keep the rows of all, so
    that the queue does not depend on how many there are. It grows in training only, and an empty one is taken to hold the first batch.

    Args:
        length: of the queue.
        width: D.
        teacher_temperature: τ_T > 0, dimensionless, as τ_S.
        student_temperature: τ_S > 0.
    """

    def __init__(
        self, length: int, width: int, teacher_temperature: float, student_temperature: float
    ) -> None:
        super().__init__()
        self.queue = Queue(length, width)
        self.teacher_temperature, self.student_temperature = (
            teacher_temperature,
            student_temperature,
        )

    def match(self, student: Tensor, *teachers: Tensor) -> dict[str, Tensor]:
        """See `Distillation`."""
        with torch.autocast(student.device.type, enabled=False):
            student, teacher = unit(student), unit(teachers[0].detach())
            batch = gather_rows(teacher)
            loss = self.compare(student, teacher, batch)
            if self.training:
                self.queue.push(batch)
        return {"loss": loss}

    def compare(self, student: Tensor, teacher: Tensor, batch: Tensor) -> Tensor:
        """The loss. student, teacher: unit rows of this worker, [N, D]; batch: the teacher's of all workers, not yet in the queue."""
        raise NotImplementedError

    def earlier(self, batch: Tensor) -> Tensor:
        """What is in the queue, or the batch where nothing is yet."""
        return self.queue.rows if len(self.queue.rows) else batch

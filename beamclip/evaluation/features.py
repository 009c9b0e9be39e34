"""From a student and images to the features that all probes share."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from beamclip.config import UserError
from beamclip.students import Student


def check_finite(features: Tensor, what: str) -> None:
    """See that every number is one.

    Raises:
        UserError: some are NaN or infinite.
    """
    if not bool(torch.isfinite(features).all()):
        raise UserError(
            f"{what} hold NaN or infinity, so training has diverged; lower optimiser.lr or set optimiser.clip_norm"
        )


@dataclass(frozen=True)
class Features:
    """What a student makes of N images, in their order; fp32, on the device it ran on."""

    features: Tensor
    """[N, F], the backbone's."""
    embeddings: Tensor
    """[N, D], the projector's, not normalised."""


@dataclass(frozen=True)
class LabelledFeatures:
    """One part of the data: train, val or test.

    Raises:
        ValueError: the lengths differ, or there is no row.
        UserError: a feature or an embedding is not finite.
    """

    features: Tensor
    """fp32 [N, F]."""
    embeddings: Tensor | None
    """fp32 [N, D], or None where zero-shot is not asked for."""
    labels: Tensor
    """int64 [N], from 0."""
    ids: Tensor | None = None
    """int64 [N], of the samples, where somebody wants to find them again."""

    def __post_init__(self) -> None:
        rows = {
            len(t) for t in (self.features, self.embeddings, self.labels, self.ids) if t is not None
        }
        if len(rows) != 1 or 0 in rows:
            raise ValueError(
                f"features, embeddings and labels must have the same number of rows, at least one, not {sorted(rows)}"
            )
        check_finite(self.features, "the student's features")
        if self.embeddings is not None:
            check_finite(self.embeddings, "the student's embeddings")


def extract(
    student: Student,
    batches: Iterable[Tensor],
    device: torch.device | str,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Features:
    """Run the student over all images once, in evaluation mode, without gradients. Its modes are restored afterwards.

    Args:
        student: already on `device`.
        batches: normalised images, [B, 3, S, S] each; at least one.
        device: where batches are sent and results stay.
        precision: `bf16` runs under autocast; results are fp32 either way.
    """
    with _evaluating(student):
        parts = [_run(student, batch.to(device, non_blocking=True), precision) for batch in batches]
    features, embeddings = zip(*parts, strict=True)
    return Features(torch.cat(features), torch.cat(embeddings))


@torch.inference_mode()
def _run(student: Student, images: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        features = student.features(images)
        embeddings = student.projector(features)
    return features.float(), embeddings.float()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Each part gets back its own mode: a backbone frozen in eval mode must not wake up."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training

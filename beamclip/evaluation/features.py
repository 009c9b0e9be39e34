"""Extract a student's features and embeddings, once for all probes."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from beamclip.config import UserError
from beamclip.students import Student


def check_finite(features: Tensor, name: str) -> None:
    """Raise UserError if a value is NaN or infinite.

    Args:
        features: a tensor of any shape.
        name: plural noun for the message, such as "the student's features".
    """
    if not bool(torch.isfinite(features).all()):
        raise UserError(
            f"{name} contain NaN or infinity, so training has diverged; "
            "lower optimizer.lr or set optimizer.clip_norm"
        )


@dataclass(frozen=True)
class Features:
    """Outputs of a student for N images, in the order of the images and on the student's device.

    Attributes:
        features: backbone features, fp32 [N, F].
        embeddings: projector outputs, not normalized, fp32 [N, D].
    """

    features: Tensor
    embeddings: Tensor


@dataclass(frozen=True)
class LabeledFeatures:
    """Features and labels of one split: train, val or test.

    Attributes:
        features: fp32 [N, F].
        embeddings: fp32 [N, D], or None to skip zero-shot.
        labels: int64 [N], from 0.
        ids: sample ids, int64 [N], saved with the predictions; None uses the positions 0 … N - 1.

    Raises:
        ValueError: the tensors have different numbers of rows, or no rows.
        UserError: a feature or an embedding is not finite.
    """

    features: Tensor
    embeddings: Tensor | None
    labels: Tensor
    ids: Tensor | None = None

    def __post_init__(self) -> None:
        columns = (self.features, self.embeddings, self.labels, self.ids)
        lengths = {len(column) for column in columns if column is not None}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                "features, embeddings and labels must have the same number of rows, at least one, "
                f"not {sorted(lengths)}"
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
    """Run the student once over all images, in evaluation mode and without gradients.

    Each module's training mode is restored afterwards.

    Args:
        student: a student on `device`.
        batches: normalized images, [B, 3, S, S] each; at least one batch.
        device: device that batches are moved to and results stay on.
        precision: `bf16` runs under autocast; results are fp32 either way.
    """
    features = []
    embeddings = []
    with _evaluation_mode(student):
        for batch in batches:
            images = batch.to(device, non_blocking=True)
            batch_features, batch_embeddings = _forward(student, images, precision)
            features.append(batch_features)
            embeddings.append(batch_embeddings)
    return Features(torch.cat(features), torch.cat(embeddings))


@torch.inference_mode()
def _forward(student: Student, images: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        features = student.features(images)
        embeddings = student.projector(features)
    return features.float(), embeddings.float()


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Set evaluation mode within the block, then restore each submodule's own mode."""
    # Each submodule's mode is saved, because `module.train()` would also switch those that the
    # caller keeps in evaluation mode, such as a frozen backbone.
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes:
            submodule.training = training

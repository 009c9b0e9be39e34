"""Students on disk: one safetensors file that says itself how to build the student."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from beamclip.config import UserError
from beamclip.stores import temporary_for
from beamclip.students.student import Spec, Student, unfilled

FORMAT = "beamclip-student-1"
_PROJECTED = "projected"
_PROJECTORS: dict[str, Literal["linear", "mlp", "mlp4"]] = {
    "linear": "linear",
    "mlp": "mlp",
    "mlp4": "mlp4",
}


@dataclass(frozen=True)
class TrainingCost:
    """What it took to train a student, the training of the one it started from included."""

    device_seconds: float = 0.0
    images_seen: int = 0
    teacher_images: int = 0
    """Images a teacher would have had to see for it alone."""

    def __add__(self, other: "TrainingCost") -> "TrainingCost":
        return TrainingCost(
            *(getattr(self, one.name) + getattr(other, one.name) for one in fields(TrainingCost))
        )


def save_student(
    student: Student,
    path: Path,
    metadata: Mapping[str, str] | None = None,
    spent: TrainingCost | None = None,
) -> None:
    """Write weights, batch statistics, the spec and whether the projector was trained, whole or not at all.

    Args:
        metadata: more texts for the header; the spec's own keys win over the same keys here.
        spent: kept in the header, for whoever starts from this student.

    Raises:
        UserError: the file can't be written.
    """
    costs = (
        {}
        if spent is None
        else {f"spent_{name}": str(value) for name, value in asdict(spent).items()}
    )
    costs[_PROJECTED] = str(any(part.requires_grad for part in student.projector.parameters()))
    spec = {
        name: " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name, value in asdict(student.spec).items()
    }
    write_tensors(
        path, student.state_dict(), {**(metadata or {}), **costs, **spec, "student_format": FORMAT}
    )


def load_student(path: Path) -> Student:
    """Build the student a file holds, in evaluation mode, on the CPU. The global generators stay as they were.

    A projector that was not trained asks for no gradient, so that saving the student again says the same.

    Raises:
        UserError: the file is missing, damaged or not a student of ours.
    """
    spec, tensors = read_student(path)
    with torch.random.fork_rng(devices=[]):
        student = unfilled(spec)
    try:
        student.load_state_dict(tensors)
    except RuntimeError:
        raise UserError(
            f"the weights in {path} don't fit the {spec.backbone} its header describes; save the student again"
        ) from None
    student.projector.requires_grad_(was_projected(path) is not False)
    return student.eval()


def read_student(path: Path) -> tuple[Spec, dict[str, Tensor]]:
    """The spec and all tensors of a student's file.

    Raises:
        UserError: the file is missing, damaged or not a student of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping, only keys()
    except (OSError, SafetensorError) as error:
        raise UserError(_unreadable(path, error)) from None
    if header.get("student_format") != FORMAT:
        raise UserError(
            f"{path} is not a student saved by this version (its header lacks {FORMAT}); give a student.safetensors of ours"
        )
    return _spec(header, path), tensors


def spent_on(path: Path) -> TrainingCost:
    """What the student in a file took to train; nothing where it does not say, as the files of earlier versions."""
    header = _header(path)
    number = {
        name: header.get(f"spent_{name}", "0")
        for name in ("device_seconds", "images_seen", "teacher_images")
    }
    try:
        return TrainingCost(
            float(number["device_seconds"]),
            int(number["images_seen"]),
            int(number["teacher_images"]),
        )
    except ValueError as error:
        raise UserError(_unreadable(path, error)) from None


def was_projected(path: Path) -> bool | None:
    """Whether the student in a file was trained to embed where its teacher does; None where it does not say, as earlier versions'."""
    return {"True": True, "False": False}.get(_header(path).get(_PROJECTED, ""))


def _header(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(_unreadable(path, error)) from None


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path} can't be read as a student's safetensors file ({error}); check the path"


def _spec(header: Mapping[str, str], path: Path) -> Spec:
    try:
        return Spec(
            backbone=header["backbone"],
            image_size=_positive(header["image_size"]),
            stem="small" if header["stem"] == "small" else "original",
            width=_positive(header["width"]),
            projector=_PROJECTORS[header["projector"]],
            projector_width=_positive(header["projector_width"]),
            mean=_triple(header["mean"]),
            std=_triple(header["std"]),
        )
    except (KeyError, ValueError) as error:
        raise UserError(
            f"the header of {path} is damaged ({error}); save the student again"
        ) from None


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(f"{text} where a size should be")
    return int(text)


def _triple(text: str) -> tuple[float, float, float]:
    red, green, blue = map(float, text.split())
    return red, green, blue


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all, readable by everybody (0644).

    Raises:
        UserError: the file can't be written.
    """
    temporary = temporary_for(path)
    own = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    try:
        save_file(own, temporary, metadata={**metadata, "format": "pt"})
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path} can't be written ({error}); choose another folder") from None

"""Save and load students. A student is one safetensors file whose header says how to build it."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from beamclip.config import UserError
from beamclip.stores import temporary_path
from beamclip.stores.file_kinds import describe_differences, file_kind
from beamclip.students.student import ProjectorKind, Student, StudentSpec, student_from_spec

FORMAT = "beamclip-student-1"
"""Value of `student_format` in the header of every student's file."""

# Keys of the header that are not fields of `StudentSpec`.
_FORMAT_KEY = "student_format"
_PROJECTED_KEY = "projected"
_COST_PREFIX = "spent_"

# The kinds of projectors that a header may name.
_PROJECTORS: dict[str, ProjectorKind] = {"linear": "linear", "mlp": "mlp", "mlp4": "mlp4"}


@dataclass(frozen=True)
class TrainingCost:
    """Cost of training a student, including the student it started from.

    The field names, prefixed with `spent_`, are keys in the header of a student's file.

    Attributes:
        device_seconds: seconds of training, summed over devices.
        images_seen: training images that went through the student.
        teacher_images: images a teacher would have to encode for this student alone.
    """

    device_seconds: float = 0.0
    images_seen: int = 0
    teacher_images: int = 0

    def __add__(self, other: "TrainingCost") -> "TrainingCost":
        return TrainingCost(
            self.device_seconds + other.device_seconds,
            self.images_seen + other.images_seen,
            self.teacher_images + other.teacher_images,
        )


def save_student(
    student: Student,
    path: Path,
    metadata: Mapping[str, str] | None = None,
    cost: TrainingCost | None = None,
) -> None:
    """Write a student's weights and spec to a file, atomically.

    The header also records whether the projector was trained, that is, whether it requires
    gradients.

    Args:
        student: student to save, with its buffers (batch statistics).
        path: file to write; an existing one is replaced.
        metadata: further texts for the header. The student's own keys take precedence.
        cost: training cost, for students that start from this one.

    Raises:
        UserError: the file can't be written.
    """
    header = dict(metadata or {})
    if cost is not None:
        for name, number in asdict(cost).items():
            header[f"{_COST_PREFIX}{name}"] = str(number)
    projector_trained = any(weight.requires_grad for weight in student.projector.parameters())
    header[_PROJECTED_KEY] = str(projector_trained)
    for name, value in asdict(student.spec).items():
        # Values in a safetensors header are texts.
        values = value if isinstance(value, tuple) else (value,)
        header[name] = " ".join(str(item) for item in values)
    header[_FORMAT_KEY] = FORMAT
    write_tensors(path, student.state_dict(), header)


def load_student(path: Path) -> Student:
    """Build the student of a file, in evaluation mode, on the CPU.

    A projector that was not trained gets `requires_grad=False`, so that the same is recorded if the
    student is saved again. The global generators are left as they were.

    Args:
        path: `student.safetensors`, written by `save_student`.

    Raises:
        UserError: the file is missing, damaged or not a student of beamclip.
    """
    spec, tensors = read_student(path)
    with torch.random.fork_rng(devices=[]):
        student = student_from_spec(spec)
    try:
        student.load_state_dict(tensors)
    except RuntimeError:
        raise UserError(
            f"the weights in {path} don't fit the {spec.backbone} its header describes "
            f"({differences(tensors, student.state_dict())}); save the student again"
        ) from None
    # None comes from older versions, whose projectors count as trained.
    student.projector.requires_grad_(projector_was_trained(path) is not False)
    return student.eval()


def differences(saved: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Return in words how the names and shapes of saved tensors differ from those of a model."""
    shapes = [
        f"{name} ({list(saved[name].shape)} for {list(expected[name].shape)})"
        for name in expected
        if name in saved and saved[name].shape != expected[name].shape
    ]
    return describe_differences(
        [name for name in expected if name not in saved],
        [name for name in saved if name not in expected],
        shapes,
    )


def read_student(path: Path) -> tuple[StudentSpec, dict[str, Tensor]]:
    """Return the spec and all tensors of a student's file.

    Raises:
        UserError: the file is missing, damaged or not a student of beamclip.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            # The file has keys(), but can't be iterated over itself.
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None
    if header.get(_FORMAT_KEY) != FORMAT:
        raise UserError(
            f"{path} is not a student saved by this version (its header lacks {FORMAT}; its "
            f"tensors are {', '.join([*sorted(tensors)[:3], '…'])}); "
            "give a student.safetensors written by beamclip"
        )
    return _spec_from_header(header, path), tensors


def training_cost_of(path: Path) -> TrainingCost:
    """Return the training cost in a student's file, or zero if an older version wrote the file.

    Raises:
        UserError: the file is missing or damaged.
    """
    header = _read_header(path)
    try:
        return TrainingCost(
            float(header.get(f"{_COST_PREFIX}device_seconds", "0")),
            int(header.get(f"{_COST_PREFIX}images_seen", "0")),
            int(header.get(f"{_COST_PREFIX}teacher_images", "0")),
        )
    except ValueError as error:
        raise _unreadable(path, error) from None


def projector_was_trained(path: Path) -> bool | None:
    """Return True if the student in a file was trained to embed into its teacher's space.

    Returns:
        True or False; None if an older version wrote the file and did not record it.

    Raises:
        UserError: the file is missing or damaged.
    """
    recorded = _read_header(path).get(_PROJECTED_KEY, "")
    return {"True": True, "False": False}.get(recorded)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically, readable by all users (mode 0644).

    Args:
        path: file to write; an existing one is replaced.
        tensors: name -> tensor, on any device and in any memory format; written contiguous.
        metadata: texts for the header. The key `format` is always set to `pt`.

    Raises:
        UserError: the file can't be written.
    """
    temporary = temporary_path(path)
    # safetensors accepts neither tensors that share memory nor other memory formats.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    try:
        save_file(copies, temporary, metadata={**metadata, "format": "pt"})
        # safetensors writes with mode 0600, which other users of shared storage can't read.
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path} can't be written ({error}); choose another folder") from None


def _read_header(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    kind, advice = file_kind(path)
    # safetensors' own error says what is wrong with a safetensors file.
    reason = str(error) if kind == "a safetensors file" else f"it is {kind}"
    if not path.exists():
        reason, advice = "it does not exist", ""
    advice = advice or "check the path, and give a student.safetensors written by beamclip"
    return UserError(f"{path} can't be read as a student's safetensors file ({reason}); {advice}")


def _spec_from_header(header: Mapping[str, str], path: Path) -> StudentSpec:
    try:
        # KeyError also for a projector of unknown kind.
        return StudentSpec(
            backbone=header["backbone"],
            image_size=_positive(header["image_size"]),
            stem="small" if header["stem"] == "small" else "original",
            width=_positive(header["width"]),
            projector=_PROJECTORS[header["projector"]],
            projector_width=_positive(header["projector_width"]),
            mean=_rgb(header["mean"]),
            std=_rgb(header["std"]),
        )
    except (KeyError, ValueError) as error:
        raise UserError(
            f"the header of {path} is damaged ({error}); save the student again"
        ) from None


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(f"{text} is not a positive number")
    return number


def _rgb(text: str) -> tuple[float, float, float]:
    red, green, blue = map(float, text.split())
    return red, green, blue

"""Students: a timm backbone, whose features are probed, and a projector into the teacher's width."""

from beamclip.students.backbones import check_backbone
from beamclip.students.build import build_student, spent_before
from beamclip.students.files import (
    TrainingCost,
    load_student,
    save_student,
    spent_on,
    was_projected,
    write_tensors,
)
from beamclip.students.student import Spec, Student

__all__ = [
    "Spec",
    "Student",
    "TrainingCost",
    "build_student",
    "check_backbone",
    "load_student",
    "save_student",
    "spent_before",
    "spent_on",
    "was_projected",
    "write_tensors",
]

"""Students: a timm backbone, which is probed, and a projector into the teacher's space."""

from beamclip.students.backbones import check_backbone
from beamclip.students.build import build_student, training_cost_of_init
from beamclip.students.files import (
    TrainingCost,
    load_student,
    projector_was_trained,
    save_student,
    training_cost_of,
    write_tensors,
)
from beamclip.students.student import Student, StudentSpec

__all__ = [
    "Student",
    "StudentSpec",
    "TrainingCost",
    "build_student",
    "check_backbone",
    "load_student",
    "projector_was_trained",
    "save_student",
    "training_cost_of",
    "training_cost_of_init",
    "write_tensors",
]

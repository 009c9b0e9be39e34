"""Students: a timm backbone, whose features are probed, and a projector into the teacher's width."""

from beamclip.students.backbones import check_backbone
from beamclip.students.build import build_student
from beamclip.students.files import load_student, save_student, write_tensors
from beamclip.students.student import Spec, Student

__all__ = ["Spec", "Student", "build_student", "check_backbone", "load_student", "save_student", "write_tensors"]

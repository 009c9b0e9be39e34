"""Load frozen CLIP teachers, and read the stores of their embeddings."""

from beamclip.teachers.embeddings import Embeddings, ViewSet, covering_store, largest_store
from beamclip.teachers.loading import load_teacher, precision_for
from beamclip.teachers.tower import Teacher

__all__ = [
    "Embeddings",
    "Teacher",
    "ViewSet",
    "covering_store",
    "largest_store",
    "load_teacher",
    "precision_for",
]

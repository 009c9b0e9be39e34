"""Load frozen CLIP teachers, and read the stores of their embeddings."""

from beamclip.teachers.embeddings import (
    Embeddings,
    ViewSet,
    covering_store,
    has_embeddings,
    largest_store,
)
from beamclip.teachers.loading import display_name, load_teacher, precision_for
from beamclip.teachers.tower import Teacher

__all__ = [
    "Embeddings",
    "Teacher",
    "ViewSet",
    "covering_store",
    "display_name",
    "has_embeddings",
    "largest_store",
    "load_teacher",
    "precision_for",
]

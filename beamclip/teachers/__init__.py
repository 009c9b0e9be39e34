"""Frozen CLIPs, and the store of what they say."""

from beamclip.teachers.embeddings import Embeddings, ViewSet, covering_store, some_store
from beamclip.teachers.loading import load_teacher, precision_for
from beamclip.teachers.tower import Teacher

__all__ = [
    "Embeddings",
    "Teacher",
    "ViewSet",
    "covering_store",
    "load_teacher",
    "precision_for",
    "some_store",
]

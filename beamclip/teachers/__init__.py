"""Frozen CLIPs, and the store of what they say."""

from beamclip.teachers.embeddings import Embeddings, ViewSet, embed
from beamclip.teachers.tower import Teacher, load_teacher, precision_for

__all__ = ["Embeddings", "Teacher", "ViewSet", "embed", "load_teacher", "precision_for"]

"""Frozen CLIPs, and the store of what they say."""

from beamclip.teachers.agreement import agreement
from beamclip.teachers.building import basis_of, embed, images_left, parts_of
from beamclip.teachers.embeddings import Embeddings, covering_store, some_store
from beamclip.teachers.encoding import EmbedJob, pixels_of
from beamclip.teachers.loading import load_teacher, precision_for
from beamclip.teachers.pace import Pace, find_pace, seconds_per_image, seconds_per_text
from beamclip.teachers.tower import Teacher
from beamclip.teachers.views import ViewSet

__all__ = [
    "EmbedJob",
    "Embeddings",
    "Pace",
    "Teacher",
    "ViewSet",
    "agreement",
    "basis_of",
    "covering_store",
    "embed",
    "find_pace",
    "images_left",
    "load_teacher",
    "parts_of",
    "pixels_of",
    "precision_for",
    "seconds_per_image",
    "seconds_per_text",
    "some_store",
]

"""Fixtures of these tests. They are defined in tests/helpers, since other tests use them too."""

from helpers.teacher_fixtures import change_config, change_weight, copied_teacher
from helpers.training_fixtures import (
    assets,
    copied_stores,
    experiment,
    other_folder,
    packed_only,
    stores,
)

__all__ = [
    "assets",
    "change_config",
    "change_weight",
    "copied_stores",
    "copied_teacher",
    "experiment",
    "other_folder",
    "packed_only",
    "stores",
]

"""Fixtures of these tests; what others use too is in tests/helpers."""

from helpers.teacher_fixtures import change_config, change_weight, copied
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
    "copied",
    "copied_stores",
    "experiment",
    "other_folder",
    "packed_only",
    "stores",
]

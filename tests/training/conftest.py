"""Fixtures of these tests; what others use too is in tests/helpers."""

from helpers.training_fixtures import (
    assets,
    copied_stores,
    experiment,
    other_folder,
    packed_only,
    stores,
)

__all__ = ["assets", "copied_stores", "experiment", "other_folder", "packed_only", "stores"]

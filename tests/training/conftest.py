"""Fixtures of these tests. They are defined in tests/helpers, since other tests use them too."""

from helpers.training_fixtures import (
    assets,
    copied_stores,
    experiment,
    other_folder,
    packed_only,
    stores,
)

__all__ = ["assets", "copied_stores", "experiment", "other_folder", "packed_only", "stores"]

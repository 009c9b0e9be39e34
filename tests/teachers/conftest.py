"""Fixtures of these tests; what others use too is in tests/helpers."""

from helpers.teacher_fixtures import change_config, change_weight, copied

__all__ = ["change_config", "change_weight", "copied"]

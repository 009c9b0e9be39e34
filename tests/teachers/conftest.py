"""Fixtures of these tests, shared with other packages through tests/helpers."""

from helpers.teacher_fixtures import change_config, change_weight, copied_teacher

__all__ = ["change_config", "change_weight", "copied_teacher"]

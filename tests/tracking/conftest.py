"""Fixtures of these tests; they are shared with tests/reporting."""

from helpers.tracking_fixtures import (
    base,
    empty_database,
    finished,
    finished_database,
    opened,
    sweep,
    uri,
)

__all__ = ["base", "empty_database", "finished", "finished_database", "opened", "sweep", "uri"]

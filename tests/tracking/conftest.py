"""Fixtures of these tests; what others use too is in tests/helpers."""

from helpers.tracking_fixtures import base, empty_database, finished, opened, sweep, uri

__all__ = ["base", "empty_database", "finished", "opened", "sweep", "uri"]

"""A storage whose MLflow database has its tables already."""

import shutil

import pytest
from helpers.tracking_fixtures import empty_database

__all__ = ["empty_database", "storage"]


@pytest.fixture
def storage(empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path

"""MLflow's sqlite file after the folder it lies in was moved: its runs still say where their files were."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import make_url

_WHERE = (("experiments", "artifact_location"), ("runs", "artifact_uri"))


def follow_move(uri: str, old: str, new: str) -> None:
    """Have experiments and runs keep their files in the new folder, where MLflow's database and those files were moved there together.

    MLflow has no call for it. Nothing is changed while the old folder is still there, nor of what lies outside it.

    Args:
        uri: of the database, as it is now.
        old, new: absolute folders.
    """
    database = make_url(uri).database if uri.startswith("sqlite") else None
    if not database or "://" in f"{old}{new}" or Path(old).exists() or not Path(database).is_relative_to(new):
        return
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in _WHERE:
            for scheme in ("", "file://"):
                before = f"{scheme}{old}/"
                change = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
                connection.execute(change, (f"{scheme}{new}/", len(before) + 1, len(before), before))

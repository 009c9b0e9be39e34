"""MLflow's sqlite file after the folder it lies in was moved: its runs still say where their files were."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

_PART = "/artifacts"
_WHERE = (("experiments", "artifact_location"), ("runs", "artifact_uri"))


def follow_move(database: Path) -> None:
    """Have experiments and runs look for their files beside the database, where both were moved together from a folder that is gone.

    MLflow has no call for it. Nothing is changed of what lies elsewhere, nor where none of the files is found beside the database.
    """
    with suppress(sqlite3.Error), closing(sqlite3.connect(database)) as connection, connection:  # read only: they are looked for in vain
        uris = [uri for (uri,) in connection.execute("SELECT artifact_uri FROM runs")]
        for old in _gone(uris, database.parent):
            _rename(connection, old, str(database.parent))


def _gone(uris: Iterable[str], here: Path) -> set[str]:
    """Folders that are there no more, while files of a run in one of them are found in this one."""
    parts = [uri.partition(f"{_PART}/") for uri in uris if uri and "://" not in uri and f"{_PART}/" in uri]
    found = {old for old, _, rest in parts if old != str(here) and (here / "artifacts" / rest).exists()}
    return {old for old in found if not Path(old).exists()}


def _rename(connection: sqlite3.Connection, old: str, new: str) -> None:
    before = f"{old}{_PART}"
    for table, column in _WHERE:
        change = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?"
        connection.execute(change, (f"{new}{_PART}", len(before) + 1, before, len(before) + 1, f"{before}/"))

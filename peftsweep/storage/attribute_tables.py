"""Which SQL reads and writes Optuna's tables of attributes?

`attributes.py` goes through Optuna. This does what Optuna's calls cannot: find a study by its key, look into a file
without changing it, write over a lease's own connection, ask whether another process has written.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import sqlalchemy
from sqlalchemy.engine import Connection

OF_KEY = """
SELECT study_name FROM studies JOIN study_user_attributes USING (study_id) WHERE key = 'key' AND value_json = :key
"""
TOKEN = """
SELECT value_json FROM study_system_attributes JOIN studies USING (study_id)
WHERE study_name = :name AND key = 'peftsweep:lease'
"""
MARK = """
INSERT INTO study_system_attributes (study_id, key, value_json)
SELECT study_id, 'peftsweep:lease', :token FROM studies WHERE study_name = :name
ON CONFLICT (study_id, key) DO UPDATE SET value_json = excluded.value_json
"""
REQUESTS = """
SELECT key, value_json FROM study_system_attributes WHERE study_id = :study AND key LIKE 'peftsweep:stop:%' ORDER BY key
"""
REQUEST = "INSERT INTO study_system_attributes (study_id, key, value_json) VALUES (:study, :key, :request)"


def studies_of_key(connection: Connection, key: str) -> Sequence[str]:
    """Names of the studies with this key: of a study and its copies."""
    return connection.execute(sqlalchemy.text(OF_KEY), {"key": json.dumps(key)}).scalars().all()


def has_study(file: Path, name: str, key: str) -> bool:
    """Whether an SQLite file, which is only read, has a study of this name and key.

    Raises:
        sqlite3.Error: it is missing, or is no such database.
    """
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
        return (name,) in database.execute(OF_KEY, {"key": json.dumps(key)})


def has_lease(connection: Connection, name: str, token: str) -> bool:
    """Whether the lease with this token was the last one that wrote to the study."""
    return bool(connection.scalar(sqlalchemy.text(TOKEN), {"name": name}) == json.dumps(token))


def mark_lease(connection: Connection, name: str, token: str) -> bool:
    """Store a lease's token in the study. False: the study does not exist yet."""
    marked = connection.execute(sqlalchemy.text(MARK), {"name": name, "token": json.dumps(token)})
    return marked.rowcount > 0


def put_request(connection: Connection, study_id: int, request: str) -> None:
    """Store a request to the process that runs a study, as JSON."""
    key = f"peftsweep:stop:{uuid4().hex}"
    connection.execute(sqlalchemy.text(REQUEST), {"study": study_id, "key": key, "request": request})


def requests(connection: Connection, study_id: int) -> dict[str, str]:
    """All requests that are stored in a study, by their keys."""
    found = connection.execute(sqlalchemy.text(REQUESTS), {"study": study_id}).all()
    return {row.key: row.value_json for row in found}


def delete_requests(connection: Connection, study_id: int, keys: Iterable[str]) -> None:
    """Delete those with these keys. Others may have come since these were read."""
    statement = sqlalchemy.text("DELETE FROM study_system_attributes WHERE study_id = :study AND key = :key")
    connection.execute(statement, [{"study": study_id, "key": key} for key in keys])

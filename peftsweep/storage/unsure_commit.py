"""Was a transaction committed whose connection was lost meanwhile? The server knows."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError


@dataclass(frozen=True)
class UnsureCommit:
    """A transaction whose connection was lost while it was being committed.

    Attributes:
        transaction: its id in the server.
        later: what it has read; see `LeasedStorage._write`.
        changes: number of changes that it has written, and those before.
        error: the loss.
    """

    transaction: int
    later: dict[int, list[int]]
    changes: int
    error: DBAPIError

    def was_committed(self, engine: Engine, changes: int) -> bool:
        """
        Args:
            changes: number of changes by now.

        Raises:
            DBAPIError: the server does not know, or more has changed since the transaction.
        """
        with engine.begin() as connection:
            status = connection.scalar(sqlalchemy.text("SELECT txid_status(:id)"), {"id": self.transaction})
        if status == "aborted":
            return False
        if status == "committed" and changes == self.changes:
            return True
        raise self.error


def transaction_id(connection: Connection) -> int | None:
    """The id of the present transaction. SQLite has none, and needs none: its commits either work or fail."""
    if connection.dialect.name != "postgresql":
        return None
    return int(connection.scalar(sqlalchemy.text("SELECT txid_current()")))

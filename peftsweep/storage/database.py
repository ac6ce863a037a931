"""What a kind of database must offer besides what Optuna does with it: its place, its tables, leases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path

from optuna.storages import RDBStorage

from peftsweep.storage.lock_holder import Doing


class Database(ABC):
    """An SQLite file or a PostgreSQL database. Creating the object touches neither."""

    @property
    @abstractmethod
    def artifacts(self) -> Path:
        """The folder of its studies' artifacts, unless the URL names one. Databases with the same name may share it."""

    @abstractmethod
    def tables(self) -> set[str]:
        """Names of its tables. Nothing is created by looking.

        Raises:
            sqlite3.Error, SQLAlchemyError: it does not answer, or is not a database.
        """

    @abstractmethod
    def alone(self) -> AbstractContextManager[None]:
        """Be the only process that creates the tables: two at once would fail."""

    @abstractmethod
    def open(self) -> RDBStorage:
        """Optuna's storage. It creates missing tables, so call it inside `alone`."""

    @abstractmethod
    def check_there(self) -> None:
        """Raises:
        StorageError: nothing is there, not even an empty database.
        """

    def server(self) -> str | None:
        """Identifies its server, if the server can say so; tells it from a database of the same name elsewhere."""
        return None

    @abstractmethod
    def lease(self, name: str, doing: Doing) -> AbstractContextManager[None]:
        """Be the only process that works on this study. The lock ends with the process, however that ends.

        Raises:
            StudyBusyError: another process works on it.
        """

    @abstractmethod
    def holder(self, name: str) -> str | None:
        """The note of the process that has this study's lease, empty while it is being written; None if no process has
        it."""

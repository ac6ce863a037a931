"""What a kind of database must be able to do for studies, besides what Optuna does with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path

from optuna.storages import RDBStorage

from peftsweep.storage.lock_holder import Doing


class Database(ABC):
    """An SQLite file or a PostgreSQL database. Making one touches nothing."""

    @property
    @abstractmethod
    def artifacts(self) -> Path:
        """The folder of its studies' artifacts, unless the URL names one. Databases of one name may share it."""

    @abstractmethod
    def tables(self) -> set[str]:
        """The tables that are there; nothing is made by looking.

        Raises:
            sqlite3.Error, SQLAlchemyError: it does not answer, or is no database.
        """

    @abstractmethod
    def alone(self) -> AbstractContextManager[None]:
        """Be the one process that makes the tables, of which two at once fail."""

    @abstractmethod
    def open(self) -> RDBStorage:
        """Optuna's storage, its tables made if they are not there: by one process, so `alone`."""

    @abstractmethod
    def check_there(self) -> None:
        """Raises:
        StorageError: nothing is at this place, not even an empty database.
        """

    def server(self) -> str | None:
        """What tells it from a database of the same name elsewhere, if its own server says so."""
        return None

    @abstractmethod
    def lease(self, name: str, doing: Doing) -> AbstractContextManager[None]:
        """Be the one process that does something to this study; the lock is gone when the process is, however it ends.

        Raises:
            StudyBusyError: another process does.
        """

    @abstractmethod
    def doing(self, name: str) -> Doing | None:
        """What the process does that has this study's lease; None where none has it."""

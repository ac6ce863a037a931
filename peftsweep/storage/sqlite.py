"""How studies live in an SQLite file: its tables, its locks, and who may open it."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL

from peftsweep.errors import StorageError
from peftsweep.storage import database_errors
from peftsweep.storage.database import Database
from peftsweep.storage.lock_holder import Doing, busy, is_here, note
from peftsweep.system import plain_files
from peftsweep.system.names import PART, file_name
from peftsweep.system.suggest import did_you_mean_file

LONGEST = 1000  # bytes of a note on who holds a study
BEAT = 10.0  # seconds between two signs of life of the process that holds a study
STALE = 60.0  # seconds without one after which a process on another machine counts as dead


class Connection(sqlite3.Connection):
    """Decodes text that is not UTF-8 with surrogate escapes: an error would fail the whole query, and hide which study
    and trial it concerns. Enforces foreign keys: if a study is deleted during its run, what is still written about its
    trial would go to the next trial with that number."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        self.execute("PRAGMA foreign_keys = ON")


class Sqlite(Database):
    """An SQLite file.

    Args:
        url: `sqlite:///studies.db` (relative to the working folder) or `sqlite:////absolute/studies.db`.
    """

    def __init__(self, url: URL) -> None:
        self.url = url.render_as_string(hide_password=False)
        file = Path(str(url.database))
        # two names of one file share the lock and the folder of artifacts
        self.file = Path(os.path.realpath(file)) if file.is_symlink() else file

    @property
    def artifacts(self) -> Path:
        """Beside the file."""
        return self.file.parent / ("artifacts" if self.file.name == "studies.db" else f"{self.file.name}-artifacts")

    def tables(self) -> set[str]:
        self._check_kind()
        if not self.file.exists():
            return set()
        # mode=rw creates no file; unlike mode=ro it can recover what a killed process left half-written
        place = f"file:{quote(str(self.file))}?mode=rw"
        try:
            with closing(
                sqlite3.connect(place, uri=True, timeout=database_errors.PATIENCE, factory=Connection)
            ) as database:
                return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        except UnicodeDecodeError as error:  # SQLite's message quotes bytes that may be anything
            raise sqlite3.DatabaseError("malformed database schema") from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        if not self.file.parent.is_dir():
            raise StorageError(f"{self.url}: the folder {self.file.parent} is not there; make it, or name another")
        with FileLock(f"{self.file}.lock"):
            yield

    def open(self) -> RDBStorage:
        return RDBStorage(
            self.url, engine_kwargs={"connect_args": {"timeout": database_errors.PATIENCE, "factory": Connection}}
        )

    def check_there(self) -> None:
        self._check_kind()
        if not self.file.exists():
            hint = did_you_mean_file(self.file, endings_to_skip=(".lock", ".holder", "-journal", "-wal", "-shm"))
            raise StorageError(f"{self.url}: the file is not there{hint or '; peftsweep run makes it'}")

    def _check_kind(self) -> None:
        """Raises:
        StorageError: something is there that cannot be a database. Nothing is written beside it: it may be in /dev.
        """
        kind = self._kind()
        if kind is not None:
            raise StorageError(f"{self.url}: {kind} is there, and no database; name a file by --storage")

    def _kind(self) -> str | None:
        """What is there that is neither a file nor nothing. It is looked at once, since another process may make the
        file at any moment."""
        try:
            mode = self.file.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return "a link to itself"
        if stat.S_ISREG(mode):
            return None
        return "a folder" if stat.S_ISDIR(mode) else "a device, a pipe or a socket"

    @contextmanager
    def lease(self, name: str, doing: Doing) -> Iterator[None]:
        lock = FileLock(self._lock(name))
        holder = Path(f"{lock.lock_file}.holder")
        try:
            lock.acquire(timeout=0.2, poll_interval=0.02)  # a process that only looks holds it for a moment
        except Timeout as error:
            raise busy(name, self.url, _note(holder)) from error
        try:
            holder.unlink(missing_ok=True)  # do not follow a link that somebody put there
            holder.write_text(f"{note(doing)}\n")
            with _kept_fresh(holder):
                yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    def holder(self, name: str) -> str | None:
        """Over a network, a file system may keep the locks of each machine to itself. There the note's age decides."""
        lock = Path(self._lock(name))
        holder = Path(f"{lock}.holder")
        try:
            with plain_files.opened(lock) as file:  # looking creates nothing
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):  # held, or not readable
            return _note(holder)
        found = _note(holder)
        return found if _is_fresh(holder) and not is_here(found) else None

    def _lock(self, name: str) -> str:
        room = PART - len(self.file.name.encode()) - len("..lock.holder")
        return f"{self.file}.{file_name(name, room)}.lock"


def _note(holder: Path) -> str:
    try:
        return plain_files.read(holder, LONGEST).decode(errors="replace").strip()
    except (OSError, ValueError):  # not there yet, or forged
        return ""


@contextmanager
def _kept_fresh(holder: Path) -> Iterator[None]:
    """Show that this process lives, also while it does something for minutes, such as loading a base."""
    ended = Event()

    def touch() -> None:
        while not ended.wait(BEAT):
            with suppress(OSError):
                os.utime(holder)

    thread = Thread(target=touch, name="sign of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _is_fresh(holder: Path) -> bool:
    try:
        with plain_files.opened(holder) as file:  # opening it makes a network's file system look anew
            return time.time() - os.fstat(file.fileno()).st_mtime < STALE
    except (OSError, ValueError):
        return False

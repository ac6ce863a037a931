"""Which message a person gets when the database or the disk fails."""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages._rdb.models import NOT_FOUND_MSG
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from peftsweep.errors import StorageError, first_line
from peftsweep.safe_text.secrets import masked
from peftsweep.system.os_errors import FULL

PATIENCE = 30  # seconds that a call waits for another process's write
AGAIN = "What was finished is kept; give the same command again"
DELETED = "the study was deleted while it was used here; the same command starts it again from the beginning"
LOST = f"the connection was lost. {AGAIN} when it answers"

KEPT = "What was finished is kept; free some space and give the same command again"
FULL_DISK = f"the disk is full. {KEPT}"
NO_RIGHT = (
    "this user may not write here; the database's owner may give it the right: GRANT ALL ON SCHEMA public TO the user"
)
NO_ROOM = "the server has no connection left; end others, or raise its max_connections"
NOT_READY = f"the server is not ready. {AGAIN} when it is"
NOBODY = "nobody answers at this address; start PostgreSQL there, or name another by --storage"
NO_MACHINE = "there is no machine of this name"
NO_ANSWER = "no answer from this machine"
NO_LOGIN = "the server does not let this user log in"
MAY_PASS = {LOST, NO_ROOM, NOT_READY, NOBODY, NO_MACHINE, NO_ANSWER}  # as when a server restarts, or another takes over
READ_ONLY = "a read-only server (a standby?); name the one that is written by --storage"

# A code of SQLite, or of PostgreSQL (an SQLSTATE, whose text is in the server's language) -> what we say.
CODES: dict[object, str] = {
    sqlite3.SQLITE_FULL: FULL_DISK,
    "53100": f"the server's disk is full. {KEPT}",
    "53300": NO_ROOM,
    "57P01": LOST,  # an administrator ended the connection
    "57P02": LOST,
    "57P03": NOT_READY,
    "42501": NO_RIGHT,
    "25006": READ_ONLY,
    "23503": DELETED,
}

# What SQLite, PostgreSQL and its client library say where no code tells -> what we say. The first match counts: reasons
# why a connection failed come before names that may occur in any statement.
KNOWN = {
    "password authentication failed|no password supplied|no PostgreSQL user name": "the server refuses this user and "
    "password; the password stands in the URL (with %40 for @, %2F for /), in PGPASSWORD or in ~/.pgpass",
    "no pg_hba.conf entry": "the server's pg_hba.conf lets nobody in from here by this user",
    'role ".*" does not exist': "the server has no such user",
    "is not permitted to log in": NO_LOGIN,
    'database ".*" does not exist': "the server has no such database; its owner makes one with createdb",
    "Connection refused|No such file or directory.*socket|is the server running": NOBODY,
    "failed to resolve host|could not translate host name": NO_MACHINE,
    "timeout expired|No route to host|Network is unreachable": NO_ANSWER,
    "the database system is": NOT_READY,
    "too many (clients|connections)|connection slots": NO_ROOM,
    "server closed the connection|terminating connection|connection is (lost|closed)|Connection reset|connection has "
    "been closed|consuming input failed|could not (send|receive) data": LOST,
    "permission denied for": NO_RIGHT,
    "read-only transaction": READ_ONLY,
    "FOREIGN KEY constraint": DELETED,
    "database is locked": f"locked by another process for over {PATIENCE} seconds; wait for it or stop it, then "
    "give the same command again",
    "disk I/O error": "the disk cannot be read or written; it may be full",
    "file is not a database": "not an SQLite database; name another file by --storage",
    "malformed": "a broken database; restore it from a copy, or name another file by --storage",
    "readonly database": "cannot be written: read-only; change its permissions or name another by --storage",
    r"no such (?P<what>table|column): (?P<name>\S+)|(?P<what_>relation|column) (?P<name_>\S+) does not exist": (
        "the {what} {name} is missing from the database; restore it from a copy, or name another by --storage"
    ),
    "unable to open": "cannot be opened; check the folder and its permissions",
    "alembic_version": "another program's database (MLflow needs one of its own); name another by --storage",
}


@contextmanager
def guarded(url: str) -> Iterator[None]:
    """Turn failures of the database or the disk into one message. What was written before is kept.

    Raises:
        StorageError: it is locked, read-only, full, unreachable or no database of this kind; or another process ended a
            trial or deleted the study.
    """
    try:
        yield
    except Exception as error:
        told = explained(error, url)
        if told is error:
            raise
        raise told from error


def explained(error: Exception, url: str) -> Exception:
    """A StorageError in place of a failure of the database or the disk; any other error as it is."""
    match error:
        case StorageInternalError() | SQLAlchemyError() | sqlite3.Error():
            what = what_failed(error)
        case UpdateFinishedTrialError():
            what = f"a trial was ended by another process while it ran here. {AGAIN}"
        case KeyError() if NOT_FOUND_MSG in error.args:
            what = DELETED
        case OSError():
            return _of_disk(error)
        case RuntimeError() if "optuna" in str(error) and "version" in str(error):
            what = f"made by another version of Optuna: {error}"
        case _ if type(error).__module__.startswith("alembic."):  # Optuna keeps the version of its tables with it
            what = (
                f"the version of its tables cannot be read: {error}; restore it from a copy, or name another "
                "database by --storage"
            )
        case _:
            return error
    return StorageError(f"{masked(url)}: {what}")


def _of_disk(error: OSError) -> OSError | StorageError:
    name = error.filename
    if error.errno in FULL:
        return StorageError(f"the disk is full{f' ({name})' if name else ''}. {KEPT}")
    if error.errno in (errno.EACCES, errno.EROFS):
        return StorageError(f"{name} cannot be written: {error.strerror}")
    if name is None:
        return error
    return StorageError(f"{name} cannot be used: {error.strerror}")  # such as a file in place of a folder


def what_failed(error: BaseException) -> str:
    """What a database's error means, and what to do about it."""
    causes = _causes(error)
    return _known(causes) or masked(first_line(causes[-1]))


def may_pass(error: DBAPIError) -> bool:
    """Whether an error may pass by itself: the connection was lost, or a server refuses a new one for the moment. A
    refusal has no code, only a text in the server's language, so one that we do not know is taken for a restart."""
    known = None if error.orig is None else _known(_causes(error.orig))
    refused = isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", "") is None
    return error.connection_invalidated or (refused if known is None else known in MAY_PASS)


def _causes(error: BaseException) -> list[BaseException]:
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__
    return causes


def _known(causes: Sequence[BaseException]) -> str | None:
    """What we say about an error; None if we do not know it."""
    for each in causes:
        code = getattr(each, "sqlite_errorcode", None) or getattr(each, "sqlstate", None)
        if code in CODES:
            return CODES[code]
    text = " ".join(map(str, causes))
    for words, said in KNOWN.items():
        if found := re.search(words, text, re.IGNORECASE):
            return said.format(**{key.rstrip("_"): part for key, part in found.groupdict().items() if part})
    return None

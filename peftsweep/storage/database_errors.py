"""Which message a person gets when the database or the disk fails."""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages._rdb.models import NOT_FOUND_MSG
from sqlalchemy.exc import SQLAlchemyError

from peftsweep.errors import StorageError, first_line
from peftsweep.safe_text.secrets import masked

PATIENCE = 30  # seconds that a call waits for another process's write
AGAIN = "What was finished is kept; give the same command again"
DELETED = "the study was deleted while it was used here; the same command starts it again from the beginning"
LOST = f"the connection was lost. {AGAIN} when it answers"

FULL = "No space left on device"
KEPT = "What was finished is kept; free some space and give the same command again"

# What SQLite, PostgreSQL and its client library say -> what we say. The first match counts: reasons why a connection
# failed come before names that may occur in any statement.
KNOWN = {
    "password authentication failed|no password supplied|no PostgreSQL user name": "the server refuses this user and "
    "password; the password stands in the URL (with %40 for @, %2F for /), in PGPASSWORD or in ~/.pgpass",
    "no pg_hba.conf entry": "the server's pg_hba.conf lets nobody in from here by this user",
    'role ".*" does not exist': "the server has no such user",
    'database ".*" does not exist': "the server has no such database; its owner makes one with createdb",
    "Connection refused|No such file or directory.*socket|is the server running locally": "nobody answers at this "
    "address; start PostgreSQL there, or name another by --storage",
    "failed to resolve host|could not translate host name": "there is no machine of this name",
    "connection timeout expired|timeout expired|No route to host|Network is unreachable": "no answer from this machine",
    "the database system is (starting up|shutting down|in recovery)": f"the server is not ready. {AGAIN} when it is",
    "too many (clients|connections)|connection slots": "the server has no connection left; end others, or raise its "
    "max_connections",
    "server closed the connection|terminating connection|connection is (lost|closed)|Connection reset|SSL connection "
    "has been closed|consuming input failed|could not (send|receive) data": LOST,
    "permission denied for": "this user may not write here; the database's owner may give it the right: GRANT ALL ON "
    "SCHEMA public TO the user",
    "read-only transaction": "a read-only server (a standby?); name the one that is written by --storage",
    "FOREIGN KEY constraint": DELETED,
    "database is locked": f"locked by another process for over {PATIENCE} seconds; wait for it or stop it, then "
    "give the same command again",
    f"disk is full|{FULL}": f"the disk is full. {KEPT}",
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

    def failure(what: str) -> StorageError:  # masked only if there is one, as sweeps come here for every answer
        return StorageError(f"{masked(url)}: {what}")

    try:
        yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
        raise failure(_explained(error)) from error
    except UpdateFinishedTrialError as error:
        raise failure(f"a trial was ended by another process while it ran here. {AGAIN}") from error
    except KeyError as error:
        if NOT_FOUND_MSG not in error.args:
            raise
        raise failure(DELETED) from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS):
            raise StorageError(f"{error.filename} cannot be written: {error.strerror}") from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            if error.filename is None:
                raise
            raise StorageError(
                f"{error.filename} cannot be used: {error.strerror}"
            ) from error  # such as a file in place of a folder
        full = f" ({error.filename})" if error.filename else ""
        raise StorageError(f"the disk is full{full}. {KEPT}") from error
    except RuntimeError as error:
        if "optuna" not in str(error) or "version" not in str(error):
            raise
        raise failure(f"made by another version of Optuna: {error}") from error
    except Exception as error:
        if FULL in str(error):  # safetensors wraps what the operating system said
            raise StorageError(f"the disk is full. {KEPT}") from error
        if not type(error).__module__.startswith("alembic."):  # Optuna keeps the version of its tables with it
            raise
        raise failure(
            f"the version of its tables cannot be read: {error}; restore it from a copy, or name another "
            "database by --storage"
        ) from error


def _explained(error: BaseException) -> str:
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__
    text = " ".join(map(str, causes))
    for words, said in KNOWN.items():
        if found := re.search(words, text, re.IGNORECASE):
            return said.format(**{key.rstrip("_"): part for key, part in found.groupdict().items() if part})
    return masked(first_line(causes[-1]))

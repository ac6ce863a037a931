"""The studies' database: an SQLite file that one sweep per study writes and anybody reads."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import optuna
import sqlalchemy.exc
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url

from peftsweep.errors import StorageError, StudyBusyError, UsageError
from peftsweep.masking import masked as masked

RETRAINED = "/retrain"  # a study's seeds are a study of their own, of this ending: no study file's name has a slash
PATIENCE = 30  # seconds that a call waits for another process's write


class Studies:
    """All studies of one storage.

    Args:
        url: `sqlite:///studies.db` (relative to the working folder) or `sqlite:////absolute/studies.db`.

    Raises:
        StorageError: no SQLite URL, a folder that is not there, a file that is no such database (it stays as it is).
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.file = sqlite_file(url)
        if not self.file.parent.is_dir():
            raise StorageError(f"{masked(url)}: the folder {self.file.parent} is not there; make it, or name another")
        with guarded(url):
            _check_owner(url, _tables(self.file))
            self.storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": PATIENCE}})

    @property
    def artifacts(self) -> Path:
        """The folder of adapters, checkpoints and reports, beside the database; each database has its own."""
        return self.file.parent / ("artifacts" if self.file.name == "studies.db" else f"{self.file.name}-artifacts")

    def names(self) -> list[str]:
        """Those that have a study file."""
        return [name for name in self._names() if not name.endswith(RETRAINED)]

    def _names(self) -> list[str]:
        return sorted(optuna.study.get_all_study_names(self.storage))

    def load(self, name: str) -> optuna.Study:
        return optuna.load_study(study_name=name, storage=self.storage)

    def retrained(self, name: str) -> optuna.Study | None:
        """The study of this one's best configurations over several seeds, if there is one."""
        return self.load(name + RETRAINED) if name + RETRAINED in self._names() else None

    def create(self, name: str) -> optuna.Study:
        """The study of this name, made if it is new; macro-F1 is to be as large as it can be."""
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            return optuna.create_study(study_name=name, storage=self.storage, direction="maximize", load_if_exists=True)
        finally:
            optuna.logging.set_verbosity(before)

    @contextmanager
    def lease(self, name: str) -> Iterator[None]:
        """Be the one process that runs this study; the lock is gone when the process is, however it ends.

        Raises:
            StudyBusyError: another process runs it.
        """
        lock = FileLock(f"{self.file}.{quote(name, safe='')}.lock")
        note = Path(f"{lock.lock_file}.holder")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            holder = note.read_text().strip() if note.is_file() else "another process"
            raise StudyBusyError(
                f"study {name!r} in {masked(self.url)} is being run by {holder}; wait for it to end, or stop it"
            ) from error
        try:
            note.write_text(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M}\n")
            yield
        finally:
            note.unlink(missing_ok=True)
            lock.release()

    def orphans(self, study: optuna.Study) -> list[FrozenTrial]:
        """Trials whose process died. To be asked by the holder of the study's lease, when no trial of its own runs."""
        return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def adopt(self, study: optuna.Study, number: int) -> optuna.Trial:
        """A running trial, to be gone on with under its own number."""
        return optuna.Trial(study, study.trials[number]._trial_id)


def exists(url: str) -> bool:
    """Whether studies are stored there. An empty file has none, and is not made a database by looking.

    Raises:
        StorageError: another program's database.
    """
    with guarded(url):
        tables = _tables(sqlite_file(url))
        _check_owner(url, tables)
    return {"studies", "alembic_version"} <= tables  # Optuna makes the latter last


def same_file(a: str, b: str) -> bool:
    """Whether two URLs name one SQLite file; False where one of them names none."""
    first, second = _file(a), _file(b)
    return first is not None and second is not None and first.resolve() == second.resolve()


def check_apart(url: str, tracking_uri: str) -> None:
    """Raises:
    UsageError: MLflow would make its tables in the studies' file, which nobody could read any more.
    """
    if same_file(url, tracking_uri):
        raise UsageError(
            f"storage and tracking_uri are one file, {masked(url)}: Optuna and MLflow need one each, such as "
            "sqlite:///studies.db and sqlite:///mlflow.db"
        )


def sqlite_file(url: str) -> Path:
    """The file of an SQLite URL.

    Raises:
        StorageError: it is another kind of URL.
    """
    file = _file(url)
    if file is None:
        raise StorageError(f"storage {masked(url)!r}: expected the URL of an SQLite file, such as sqlite:///studies.db")
    return file


def _file(url: str) -> Path | None:
    try:
        parsed = make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):  # the latter: a port that is no number
        return None
    is_file = parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:")
    return Path(str(parsed.database)) if is_file else None


def _tables(file: Path) -> set[str]:
    """The tables of an SQLite file; none where there is no file.

    Raises:
        sqlite3.Error: it is no database, or locked.
    """
    if not file.is_file():
        return set()
    # mode rw makes no file, and reads what a killed process left half-written, as mode ro cannot
    with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, timeout=PATIENCE)) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _check_owner(url: str, tables: set[str]) -> None:
    """Raises:
    StorageError: another program's database, into which Optuna would write its tables.
    """
    if "experiments" in tables:
        raise StorageError(
            f"{masked(url)}: MLflow's database; the studies are in another file, by default sqlite:///studies.db: name "
            "it by --storage"
        )
    if tables and "studies" not in tables:
        raise StorageError(f"{masked(url)}: another program's database; name the studies' own file by --storage")


@contextmanager
def guarded(url: str) -> Iterator[None]:
    """What the database or the disk cannot do becomes one message. Whatever was written before is kept.

    Raises:
        StorageError: locked, read-only, full, no database of this kind.
    """
    where = masked(url)
    try:
        yield
    except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error) as error:
        raise StorageError(f"{where}: {_explained(error)}") from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS):
            raise StorageError(f"{error.filename} cannot be written: {error.strerror}") from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        full = f" ({error.filename})" if error.filename else ""
        raise StorageError(
            f"the disk is full{full}. What was finished is kept; free some space and give the same command again"
        ) from error
    except RuntimeError as error:
        if "optuna" not in str(error) or "version" not in str(error):
            raise
        raise StorageError(f"{where}: made by another version of Optuna: {error}") from error


def _explained(error: BaseException) -> str:
    causes = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(str(cause))
        cause = cause.__cause__
    text = " ".join(causes)
    known = {
        "database is locked": f"locked by another process for over {PATIENCE} seconds; wait for it or stop it, then "
        "give the same command again",
        "disk is full": "the disk is full. What was finished is kept; free some space and give the same command again",
        "disk I/O error": "the disk cannot be read or written; it may be full",
        "file is not a database": "not an SQLite database; name another file by --storage",
        "malformed": "a broken database; restore it from a copy, or name another file by --storage",
        "readonly database": "cannot be written: read-only; change its permissions or name another by --storage",
        "unable to open": "cannot be opened; check the folder and its permissions",
        "alembic_version": "another program's database (MLflow needs a file of its own); name another by --storage",
    }
    return next((said for word, said in known.items() if word in text), masked(causes[-1].splitlines()[0]))

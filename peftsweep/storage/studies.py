"""All studies of one storage."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from peftsweep.errors import StorageError
from peftsweep.masking import masked
from peftsweep.storage.addresses import Address, address
from peftsweep.storage.database import Database
from peftsweep.storage.faults import guarded
from peftsweep.storage.postgresql import Postgresql
from peftsweep.storage.sqlite import Sqlite

RETRAINED = "/retrain"  # a study's seeds are a study of their own, of this ending: no study file's name has a slash


class Studies:
    """All studies of one storage.

    Args:
        url: of an SQLite file or a PostgreSQL database. `?artifacts=FOLDER` says where the studies' artifacts are, in
            place of `Database.artifacts`.

    Attributes:
        artifacts: the folder of adapters, checkpoints and reports, of each study in a folder by its name.

    Raises:
        StorageError: another URL, no such place, a server that does not answer, a database that is another program's
            (it stays as it is).
    """

    def __init__(self, url: str) -> None:
        self.url = url
        where = address(url)
        self.database = _database(where)
        self.artifacts: Path = where.artifacts or self.database.artifacts
        with guarded(url):
            tables = self.database.tables()
            _check_owner(url, tables)
            with nullcontext() if _whole(tables) else self.database.alone():
                self.storage = self.database.open()

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

    def lease(self, name: str) -> AbstractContextManager[None]:
        """Be the one process that runs this study; the lock is gone when the process is, however it ends.

        Raises:
            StudyBusyError: another process runs it.
        """
        return self.database.lease(name)

    def orphans(self, study: optuna.Study) -> list[FrozenTrial]:
        """Trials whose process died. To be asked by the holder of the study's lease, when no trial of its own runs."""
        return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def adopt(self, study: optuna.Study, number: int) -> optuna.Trial:
        """A running trial, to be gone on with under its own number."""
        return optuna.Trial(study, study.trials[number]._trial_id)


def exists(url: str) -> bool:
    """Whether studies are stored there. An empty file or database has none, and is given no tables by looking.

    Raises:
        StorageError: another program's database, or a server that does not answer.
    """
    with guarded(url):
        tables = _database(address(url)).tables()
        _check_owner(url, tables)
    return _whole(tables)


def _whole(tables: set[str]) -> bool:
    """Whether these are Optuna's, which makes the latter last."""
    return {"studies", "alembic_version"} <= tables


def _database(where: Address) -> Database:
    return Sqlite(where.url) if where.is_file else Postgresql(where.url)


def _check_owner(url: str, tables: set[str]) -> None:
    """Raises:
    StorageError: another program's database, into which Optuna would write its tables.
    """
    if "experiments" in tables:
        raise StorageError(
            f"{masked(url)}: MLflow's database; the studies are in another one, by default sqlite:///studies.db: name "
            "it by --storage"
        )
    if tables and "studies" not in tables:
        raise StorageError(f"{masked(url)}: another program's database; name the studies' own one by --storage")

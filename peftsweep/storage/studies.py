"""All studies of one storage: which there are, and how one is made, opened, leased and continued."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.storages._rdb.models import BaseModel
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from peftsweep.errors import ForeignStudyError, StorageError
from peftsweep.safe_text.quoting import quoted
from peftsweep.safe_text.secrets import masked
from peftsweep.storage.attribute_tables import studies_of_key
from peftsweep.storage.attributes import TrialFacts, has_record_in, running_trial
from peftsweep.storage.database import Database
from peftsweep.storage.database_errors import guarded
from peftsweep.storage.identity import Place, owner
from peftsweep.storage.leased_storage import LeasedStorage
from peftsweep.storage.lock_holder import Doing, doing_of, is_of
from peftsweep.storage.optuna_states import in_optuna
from peftsweep.storage.outages import Patience
from peftsweep.storage.postgresql import Postgresql
from peftsweep.storage.sqlite import Sqlite
from peftsweep.storage.stored_study import StoredStudy, reading, shown
from peftsweep.storage.sweep_record import SweepRecord
from peftsweep.storage.urls import Address, address
from peftsweep.sweep_state import SweepState
from peftsweep.system.folders import inside
from peftsweep.system.names import check_study, study_refusal
from peftsweep.trial_state import TrialState

LAST = "alembic_version"  # the last table that Optuna makes
RETRAINED = "/retrain"  # ends the name of a study's seeds, a study of their own; names of study files have no slash


class Studies:
    """All studies of one storage.

    Args:
        url: an SQLite file or a PostgreSQL database. `?artifacts=FOLDER` replaces `Database.artifacts`.
        warn: called with a line about each thing in the storage that cannot be used.

    Attributes:
        artifacts: the folder of adapters, checkpoints and reports, with a folder for each study.

    Raises:
        StorageError: the URL is of another kind, the place does not exist, the server does not answer, or the database
            is another program's (it is not changed).
    """

    def __init__(self, url: str, warn: Callable[[str], object] = lambda text: None) -> None:
        self.url = url
        self.warn = warn
        where = address(url)
        self.database = _database(where)
        self.artifacts: Path = where.artifacts or self.database.artifacts
        with guarded(url):
            tables = self.database.tables()
            _check_tables(url, tables)
            with nullcontext() if _whole(tables) else self.database.alone():
                self.storage = self.database.open()

    @cached_property
    def place(self) -> Place:
        return Place.of(self.url, self.database, self._study_of)

    def names(self) -> list[str]:
        """Names of the studies. A study with a name that no study file can have was made by another program, or
        forged, and is left out."""
        return [name for name in self._mains() if not study_refusal(name)]

    def _mains(self) -> list[str]:
        return [name for name in self._names() if not name.endswith(RETRAINED)]

    def _misnamed(self) -> list[str]:
        """A line about studies with names that no study file can have."""
        strange = {name: why for name in self._mains() if (why := study_refusal(name))}
        more = f", and {len(strange) - 1} more studies with such names" if len(strange) > 1 else ""
        lines = (f"study {quoted(name)} is left out: its name {why}{more}" for name, why in strange.items())
        return [f"{masked(self.url)}: {line}" for line in list(lines)[:1]]

    def folder(self, name: str) -> Path:
        """The folder of a study's artifacts, for reading. The folder of its seeds is inside it.

        Raises:
            UsageError: no study can have this name.
        """
        check_study(name.removesuffix(RETRAINED))
        return self.artifacts / name

    def own_folder(self, name: str) -> Path:
        """The same, for writing.

        Raises:
            UsageError: see `folder`.
            StorageError: a link leads out of the folder of artifacts.
        """
        return inside(self.artifacts, self.folder(name))

    def _names(self) -> list[str]:
        # Optuna's own call reads everything in all studies: one that cannot be read would hide the others.
        with reading(masked(self.url)), self.storage.engine.connect() as connection:
            found = connection.execute(sqlalchemy.text("SELECT study_name FROM studies")).scalars().all()
        return sorted(name for name in found if isinstance(name, str))

    def load(self, name: str) -> StoredStudy:
        """A study that a sweep has made.

        Raises:
            ForeignStudyError: another program made it, or its sweep was stopped before it had begun.
            StorageError: it cannot be read.
        """
        return StoredStudy(name, self.storage, self.url)

    def find(self, name: str) -> StoredStudy | None:
        """The same; None if there is no such study, or only what a process left that died while it made the study."""
        if name not in self._names():
            return None
        return None if self._is_unbegun(name) else self.load(name)

    def all(self, wanted: Iterable[str] | None = None) -> list[StoredStudy]:
        """The studies that sweeps have made, by name. `warn` is called about other studies and about trials left out.

        Args:
            wanted: only these.

        Raises:
            StorageError: a wanted study is another program's or cannot be read; or no study can be read.
        """
        found: list[StoredStudy] = []
        foreign: list[str] = []
        lost = self._misnamed()
        for name in self.names() if wanted is None else wanted:
            try:
                study = self.find(name)
            except StorageError as error:
                if wanted is not None:
                    raise
                if isinstance(error, ForeignStudyError):
                    foreign.append(quoted(name))
                else:
                    lost.append(f"{error}; it is left out")
                continue
            if study is not None:
                found.append(study)
        if foreign:
            self.warn(f"{masked(self.url)}: not made by peftsweep and left out: {shown(foreign)}")
        if lost and not found:  # else a command would say that there is nothing
            raise StorageError("\n".join(lost))
        for line in (*lost, *(line for study in found for line in study.left_out())):
            self.warn(line)
        return found

    def _study_of(self, key: str) -> str | None:
        """The name of the study that this key was made for, if it is here. A copy has the same key until it is run.

        Raises:
            StorageError: a study with this key cannot be read.
        """
        with self.storage.engine.connect() as connection:
            found = studies_of_key(connection, key)
        return next((name for name in found if self.load(name).is_first), None)

    def _is_unbegun(self, name: str) -> bool:
        """Whether a process died while it made this study. It had claimed the folder before."""
        with reading(f"study {quoted(name)} in {masked(self.url)}"):
            study = self.storage.get_study_id_from_name(name)
            if has_record_in(self.storage, study) or self.storage.get_n_trials(study):
                return False
            maximised = self.storage.get_study_directions(study) == [StudyDirection.MAXIMIZE]
        return maximised and owner(self.folder(name)) is not None

    def retrained(self, name: str) -> StoredStudy | None:
        """The study of this study's seeds, if it was retrained."""
        return self.find(name + RETRAINED)

    def create(self, name: str) -> optuna.Study:
        """The Optuna study of this name, made if it is new. Its objective is maximised.

        Raises:
            UsageError: no study can have this name.
        """
        check_study(name.removesuffix(RETRAINED))
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            with reading(f"study {quoted(name)} in {masked(self.url)}"):
                return optuna.create_study(
                    study_name=name, storage=self.storage, direction="maximize", load_if_exists=True
                )
        finally:
            optuna.logging.set_verbosity(before)

    def lease(self, name: str, doing: Doing = "run") -> AbstractContextManager[None]:
        """Be the only process that works on this study. The lock ends with the process, however that ends.

        Raises:
            StudyBusyError: another process works on it.
        """
        return self.database.lease(name, doing)

    def hold(self, *studies: StoredStudy, patience: Patience | None = None) -> list[StoredStudy]:
        """The same studies in memory, for the process that has their lease. Nothing that it writes into one of them is
        in the database before `StoredStudy.flush`, which writes all of them together.

        Args:
            patience: repeats what fails because the database does not answer.
        """
        leased = LeasedStorage(self.storage)
        for study in studies:
            leased.hold(study._study_id, study._storage.get_all_trials(study._study_id, deepcopy=False))
        held = [StoredStudy(study.study_name, leased, self.url) for study in studies]
        for study in held:
            study.patience = patience
        return held

    def doing(self, name: str) -> Doing | None:
        """What the process with this study's lease does; None if no process has it. Then its running trials were
        stopped."""
        holder = self.database.holder(name)
        return None if holder is None else doing_of(holder)

    def runs(self, name: str, sweep: SweepRecord | None) -> bool:
        """Whether a process runs this study, or retrains it. After a sweep has ended, its process may have the lease
        for as long as other studies of its command go on.

        Args:
            sweep: the study's record of its last sweep.
        """
        main = name.removesuffix(RETRAINED)
        holder = self.database.holder(main)
        if holder is None or doing_of(holder) != ("run" if name == main else "retrain"):
            return False
        if sweep is None or sweep.state == SweepState.RUNNING:
            return True
        return not is_of(holder, sweep.pid, sweep.host)

    def orphans(self, study: optuna.Study) -> list[FrozenTrial]:
        """Trials whose process died. Only the holder of the study's lease may ask, before it starts trials itself."""
        return study.get_trials(deepcopy=False, states=(in_optuna(TrialState.RUNNING),))

    def begin(self, study: optuna.Study, **facts: Unpack[TrialFacts]) -> optuna.Trial:
        """A new running trial that has these facts from its first moment. Waiting trials go on waiting."""
        return optuna.Trial(study, study._storage.create_new_trial(study._study_id, running_trial(**facts)))

    def adopt(self, study: optuna.Study, number: int) -> optuna.Trial:
        """A running trial, for continuing it under its own number."""
        return optuna.Trial(study, study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number))

    def give(self, trial: optuna.Trial, name: str, value: Any, distribution: BaseDistribution) -> None:
        """Store a parameter of a running trial. Optuna's own call refuses it if a trial of another program has a
        parameter of this name with another distribution."""
        stored = distribution.to_internal_repr(value)
        if isinstance(trial.storage, LeasedStorage):
            trial.storage.give(trial._trial_id, name, stored, distribution)
        else:
            self.storage._set_trial_param(trial._trial_id, name, stored, distribution, distribution)


def exists(url: str) -> bool:
    """Whether studies are stored there. Looking does not create tables in an empty file or database.

    Raises:
        StorageError: it is another program's database, or the server does not answer.
    """
    with guarded(url):
        tables = _database(address(url)).tables()
        _check_tables(url, tables)
    return "studies" in tables


def check_there(url: str) -> None:
    """Raises:
    StorageError: nothing is at this place, not even an empty file or database, so the address must be wrong.
    """
    with guarded(url):
        _database(address(url)).check_there()


def _whole(tables: set[str]) -> bool:
    """Whether Optuna has made all of its tables."""
    return {"studies", LAST} <= tables


def _database(where: Address) -> Database:
    return Sqlite(where.url) if where.is_file else Postgresql(where.url)


def _check_tables(url: str, tables: set[str]) -> None:
    """Raises:
    StorageError: it is another program's database, and Optuna would write its tables into it; or one of Optuna's tables
        is missing, and Optuna would silently make an empty one.
    """
    if "experiments" in tables:
        raise StorageError(
            f"{masked(url)}: MLflow's database; the studies are in another one, by default sqlite:///studies.db: name "
            "it by --storage"
        )
    missing = sorted(BaseModel.metadata.tables.keys() - tables)
    if LAST in tables and 0 < len(missing) < len(BaseModel.metadata.tables) / 2:
        raise StorageError(
            f"{masked(url)}: the table {missing[0]} is missing from the database; restore it from a copy, or name "
            "another by --storage"
        )
    if tables and "studies" not in tables:
        raise StorageError(f"{masked(url)}: another program's database; name the studies' own one by --storage")

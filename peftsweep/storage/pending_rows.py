"""Which rows has a process changed in memory, and how are they written? All in one transaction, in a few statements."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cache
from typing import Any

import sqlalchemy
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

TRIALS: Table = models.TrialModel.__table__
STUDIES: Table = models.StudyModel.__table__
# The tables of what belongs to a study or a trial, and the columns that tell a row from the others.
PARAMS: Table = models.TrialParamModel.__table__
VALUES: Table = models.TrialValueModel.__table__
REPORTED: Table = models.TrialIntermediateValueModel.__table__
USER_ATTRS: Table = models.TrialUserAttributeModel.__table__
SYSTEM_ATTRS: Table = models.TrialSystemAttributeModel.__table__
STUDY_USER_ATTRS: Table = models.StudyUserAttributeModel.__table__
STUDY_SYSTEM_ATTRS: Table = models.StudySystemAttributeModel.__table__
KEYS = {
    PARAMS: ("trial_id", "param_name"),
    VALUES: ("trial_id", "objective"),
    REPORTED: ("trial_id", "step"),
    USER_ATTRS: ("trial_id", "key"),
    SYSTEM_ATTRS: ("trial_id", "key"),
    STUDY_USER_ATTRS: ("study_id", "key"),
    STUDY_SYSTEM_ATTRS: ("study_id", "key"),
}


class PendingRows:
    """Rows that wait to be written. Of a row that was changed several times, the last state is kept.

    Ids of trials are those in memory; `write` gets the database's.

    Attributes:
        puts: how often a row was put.
    """

    def __init__(self) -> None:
        self._rows: dict[Table, dict[tuple[Any, ...], dict[str, Any]]] = {table: {} for table in KEYS}
        self.puts = 0

    def put(self, table: Table, **row: Any) -> None:
        self._rows[table][tuple(row[name] for name in KEYS[table])] = row
        self.puts += 1

    def __bool__(self) -> bool:
        return any(self._rows.values())

    def trials(self) -> set[int]:
        """Ids of the trials that have rows here."""
        return {row["trial_id"] for rows in self._rows.values() for row in rows.values() if "trial_id" in row}

    def write(self, connection: Connection, real: Callable[[int], int]) -> None:
        """
        Args:
            real: returns the database's id of a trial.
        """
        for table, rows in self._rows.items():
            if not rows:
                continue
            written = [row | {"trial_id": real(row["trial_id"])} if "trial_id" in row else row for row in rows.values()]
            connection.execute(_upsert(table, connection.dialect.name), written)

    def clear(self) -> None:
        for rows in self._rows.values():
            rows.clear()


@cache
def _upsert(table: Table, dialect: str) -> sqlalchemy.Insert:
    """A statement that inserts a row, or replaces the one with its key."""
    insert = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    given = [column.name for column in table.columns if not column.primary_key and column.name not in KEYS[table]]
    changed = {name: insert.excluded[name] for name in given}
    return insert.on_conflict_do_update(index_elements=KEYS[table], set_=changed)


def insert_trials(connection: Connection, study_id: int, trials: Iterable[FrozenTrial]) -> dict[int, int]:
    """Insert trials in their order; returns the database's ids by number."""
    rows = [{"study_id": study_id, "number": trial.number} | _state(trial) for trial in trials]
    if not rows:
        return {}
    insert = TRIALS.insert().returning(TRIALS.c.number, TRIALS.c.trial_id, sort_by_parameter_order=True)
    return dict(map(tuple, connection.execute(insert, rows)))


def update_trials(connection: Connection, trials: Iterable[tuple[int, FrozenTrial]]) -> None:
    """Write the states and times of trials, given with their ids in the database."""
    rows = [{"known_id": trial_id} | _state(trial) for trial_id, trial in trials]
    if rows:
        connection.execute(TRIALS.update().where(TRIALS.c.trial_id == sqlalchemy.bindparam("known_id")), rows)


def _state(trial: FrozenTrial) -> dict[str, Any]:
    times = {"datetime_start": _utc(trial.datetime_start), "datetime_complete": _utc(trial.datetime_complete)}
    return {"state": trial.state, **times}


def _utc(moment: datetime | None) -> datetime | None:
    """Optuna's tables have times in UTC, and its trials local ones, both without a time zone."""
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)


def lock_study(connection: Connection, study_id: int, name: str) -> bool:
    """Let nobody else add a trial to the study before the transaction ends. False: the study was deleted.

    A statement that writes takes the lock in both kinds of database: of the file in SQLite, of the row in PostgreSQL.
    """
    row = (STUDIES.c.study_id == study_id) & (STUDIES.c.study_name == name)
    return connection.execute(STUDIES.update().where(row).values(study_name=name)).rowcount > 0


def is_there(connection: Connection, study_id: int, name: str) -> bool:
    row = (STUDIES.c.study_id == study_id) & (STUDIES.c.study_name == name)
    return connection.scalar(sqlalchemy.select(STUDIES.c.study_id).where(row)) is not None


def later_trials(connection: Connection, study_id: int, after: int) -> dict[int, int]:
    """Numbers of the study's trials with ids above this one, by id."""
    later = (TRIALS.c.study_id == study_id) & (TRIALS.c.trial_id > after)
    query = sqlalchemy.select(TRIALS.c.trial_id, TRIALS.c.number).where(later).order_by(TRIALS.c.trial_id)
    return dict(map(tuple, connection.execute(query)))


def renumber(connection: Connection, numbers: dict[int, int]) -> None:
    """Give trials other numbers, by id."""
    rows = [{"known_id": trial_id, "new_number": number} for trial_id, number in numbers.items()]
    known = TRIALS.c.trial_id == sqlalchemy.bindparam("known_id")
    if rows:
        connection.execute(TRIALS.update().where(known).values(number=sqlalchemy.bindparam("new_number")), rows)


def states_of(connection: Connection, trial_ids: Iterable[int]) -> dict[int, Any]:
    """States of trials, by id."""
    query = sqlalchemy.select(TRIALS.c.trial_id, TRIALS.c.state).where(TRIALS.c.trial_id.in_(list(trial_ids)))
    return dict(map(tuple, connection.execute(query)))

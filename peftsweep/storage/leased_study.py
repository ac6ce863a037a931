"""What does a process hold of a study whose lease it has? All of its trials, and which of them the database lacks."""

from __future__ import annotations

from collections.abc import Container, Iterable
from itertools import takewhile
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import NOT_FOUND_MSG
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from peftsweep.storage import pending_rows as rows


class LeasedStudy:
    """A study and its trials in memory.

    A trial is never changed in place: a changed one is `put` in its place. So whoever has a trial can see by its
    identity whether it is the latest. Trials made here have negative ids; `real` returns the database's.

    Attributes:
        trials: by id, in the order of their numbers.
        distributions: of each parameter, as the first trial that has it.
        puts: how often a trial was put.
        outside: ids of trials that other processes have added, and that are to be taken in.
    """

    def __init__(self, study_id: int, name: str, directions: list[StudyDirection]) -> None:
        self.study_id, self.name, self.directions = study_id, name, directions
        self.user_attrs: dict[str, Any] = {}
        self.system_attrs: dict[str, Any] = {}
        self.trials: dict[int, FrozenTrial] = {}
        self.ids: dict[int, int] = {}  # by number
        self.distributions: dict[str, BaseDistribution] = {}
        self.puts = 0
        self._latest_put: dict[int, int] = {}  # by id: the trial's last put; the latest comes last
        self.outside: list[int] = []
        self._by_state: dict[TrialState, dict[int, None]] = {state: {} for state in TrialState}
        self._real: dict[int, int] = {}
        self._created: dict[int, None] = {}  # trials that the database lacks
        self._moved: dict[int, None] = {}  # trials in another state than in the database
        self._last = 0  # no trial of the database up to this id is unknown
        self._own: dict[int, int] = {}  # ids in the database of what `write` wrote, until `written`

    @classmethod
    def read(cls, rdb: RDBStorage, study_id: int, trials: Iterable[FrozenTrial]) -> LeasedStudy:
        """
        Args:
            trials: all of the study's.
        """
        study = cls(study_id, rdb.get_study_name_from_id(study_id), rdb.get_study_directions(study_id))
        study.user_attrs, study.system_attrs = rdb.get_study_user_attrs(study_id), rdb.get_study_system_attrs(study_id)
        for trial in sorted(trials, key=lambda trial: trial.number):
            study.take_in(trial)
        return study

    # Trials ---------------------------------------------------------------------------------------------------------

    def take_in(self, trial: FrozenTrial) -> None:
        """Add a trial as the database has it."""
        self.put(trial)
        self._last = max(self._last, trial._trial_id)

    def create(self, trial: FrozenTrial) -> None:
        """Add a trial that the database lacks."""
        self._created[trial._trial_id] = None
        self.put(trial)

    def put(self, trial: FrozenTrial) -> None:
        """Put a trial in the place of an earlier state of it, if there is one."""
        trial_id = trial._trial_id
        before = self.trials.get(trial_id)
        if before is None:
            self.ids[trial.number] = trial_id
            for name, distribution in trial.distributions.items():
                self.distributions.setdefault(name, distribution)
        elif before.state != trial.state:
            del self._by_state[before.state][trial_id]
            if trial_id not in self._created:
                self._moved[trial_id] = None
        self._by_state[trial.state][trial_id] = None
        self.trials[trial_id] = trial
        self._latest_put.pop(trial_id, None)
        self.puts = self._latest_put[trial_id] = self.puts + 1

    def changed(self, since: int) -> list[FrozenTrial]:
        """The trials that were put after that many puts."""
        ids = takewhile(lambda trial_id: self._latest_put[trial_id] > since, reversed(self._latest_put))
        return [self.trials[trial_id] for trial_id in ids]

    @property
    def next_number(self) -> int:
        """The number of the next new trial."""
        return len(self.trials) + len(self.outside)

    def having(self, states: Container[TrialState] | None) -> list[FrozenTrial]:
        """The trials in these states, in the order of their numbers."""
        if states is None:
            return list(self.trials.values())
        ids = [trial_id for state in TrialState if state in states for trial_id in self._by_state[state]]
        return sorted((self.trials[trial_id] for trial_id in ids), key=lambda trial: trial.number)

    def count(self, states: Container[TrialState] | None) -> int:
        if states is None:
            return len(self.trials)
        return sum(len(ids) for state, ids in self._by_state.items() if state in states)

    # Writing --------------------------------------------------------------------------------------------------------

    def has_changed(self) -> bool:
        """Whether trials were created, or are in other states than in the database."""
        return bool(self._created or self._moved)

    def real(self, trial_id: int) -> int:
        """A trial's id in the database, also if it was written in a transaction that is not committed yet."""
        return self._own.get(trial_id) or self._real.get(trial_id, trial_id)

    def lock(self, connection: Connection) -> None:
        """Let nobody else add trials before the transaction ends.

        Raises:
            KeyError: the study was deleted.
        """
        if not rows.lock_study(connection, self.study_id, self.name):
            raise KeyError(NOT_FOUND_MSG)

    def check_there(self, connection: Connection) -> None:
        """
        Raises:
            KeyError: the study was deleted.
        """
        if not rows.is_there(connection, self.study_id, self.name):
            raise KeyError(NOT_FOUND_MSG)

    def check_unended(self, connection: Connection, trial_ids: Iterable[int]) -> None:
        """
        Args:
            trial_ids: of trials, in memory, of which rows are about to be written.

        Raises:
            KeyError: a trial was deleted.
            UpdateFinishedTrialError: another process has ended a trial.
        """
        known = {self.real(trial_id) for trial_id in {*trial_ids, *self._moved} if trial_id not in self._created}
        states = rows.states_of(connection, known) if known else {}
        if len(states) < len(known):
            raise KeyError(NOT_FOUND_MSG)
        if ended := [trial_id for trial_id, state in states.items() if state.is_finished()]:
            raise UpdateFinishedTrialError(f"Trial {ended[0]} was ended by another process.")

    def write(self, connection: Connection) -> None:
        """Write new trials and new states. The study is locked."""
        created = [self.trials[trial_id] for trial_id in self._created]
        ids = rows.insert_trials(connection, self.study_id, created)
        self._own = {trial._trial_id: ids[trial.number] for trial in created}
        rows.update_trials(connection, [(self.real(trial_id), self.trials[trial_id]) for trial_id in self._moved])

    def later(self, connection: Connection) -> list[int]:
        """Ids of trials that other processes have added. Call it before `write`.

        They were numbered without knowledge of the trials that wait here to be written, and nobody has begun them. So
        they get the next numbers after those.
        """
        found = rows.later_trials(connection, self.study_id, self._last)
        wanted = {trial_id: self.next_number + place for place, trial_id in enumerate(found)}
        rows.renumber(connection, {each: number for each, number in wanted.items() if found[each] != number})
        return list(found)

    def written(self, later: list[int]) -> None:
        """Note that the transaction is committed: the database has everything.

        Args:
            later: what `later` returned.
        """
        self.outside += later
        self._real |= self._own
        self._last = max(self._last, 0, *later, *self._own.values())
        self._created.clear()
        self._moved.clear()
        self._own = {}

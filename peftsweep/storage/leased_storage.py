"""How does the process with a study's lease read and write it? In memory; what has changed is written in groups."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn

from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.models import NOT_FOUND_MSG
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import ConfigDict, TypeAdapter
from sqlalchemy.exc import DBAPIError

from peftsweep.storage import pending_rows as rows
from peftsweep.storage.leased_study import LeasedStudy
from peftsweep.storage.unsure_commit import UnsureCommit, transaction_id

ANYTHING = TypeAdapter[Any](Any, config=ConfigDict(ser_json_inf_nan="constants"))
LOOK = 1.0  # seconds between looks for trials that another process has enqueued


class LeasedStorage(BaseStorage):
    """Studies that only this process writes, because it has their lease.

    Every call is answered from memory. What it changed waits until `flush`, which writes all of it in one transaction:
    after a kill the database has everything up to a `flush` and nothing after it. Samplers, `ask`, `report` and `tell`
    work as with Optuna's own storage. For use by one thread.

    Other processes may still enqueue trials, which appear within `LOOK` seconds. Other changes that they make are not
    seen: whoever must see them reads the database itself.

    Args:
        rdb: where the studies are.
    """

    def __init__(self, rdb: RDBStorage) -> None:
        self.rdb = rdb
        self._studies: dict[int, LeasedStudy] = {}
        self._of_trial: dict[int, LeasedStudy] = {}
        self._pending = rows.PendingRows()
        self._looked = time.monotonic()
        self._unsure: UnsureCommit | None = None
        self._stopped: KeyboardInterrupt | None = None  # after it, nobody knows whether the last group was written

    def hold(self, study_id: int, trials: Sequence[FrozenTrial]) -> None:
        """Take a study into memory, with all its trials as the database has them."""
        study = LeasedStudy.read(self.rdb, study_id, trials)
        self._studies[study_id] = study
        self._of_trial |= dict.fromkeys(study.trials, study)

    # Writing --------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what has changed: all of it or, if this raises an error, nothing, so that it may be repeated. Trials
        that other processes have enqueued meanwhile are taken into memory.

        Raises:
            KeyError: a study was deleted.
            UpdateFinishedTrialError: another process has ended a trial.
            SQLAlchemyError: the database does not answer. If the connection was lost while the transaction was being
                committed, the next call finds out whether it was.
            KeyboardInterrupt: a signal came. Every later call raises it again.
            StudyBusyError: another process has the lease.
        """
        if self._stopped is not None:
            raise self._stopped
        studies = self._studies.values()
        try:
            if (unsure := self._unsure) is not None:
                if unsure.was_committed(self.rdb.engine, self._changes()):
                    self._written(unsure.later)
                self._unsure = None
            changed = bool(self._pending) or any(study.has_changed() for study in studies)
            if changed or time.monotonic() >= self._looked + LOOK:
                self._written(self._write() if changed else self._look())
        except KeyboardInterrupt as stopped:  # a signal: Python raises it at any moment, also after the commit
            self._stopped = stopped
            raise
        for study in studies:
            while study.outside:
                trial = self.rdb.get_trial(study.outside[0])
                self._of_trial[trial._trial_id] = study
                study.take_in(trial)
                study.outside.pop(0)

    def _written(self, later: dict[int, list[int]]) -> None:
        """Note that the database has everything.

        Args:
            later: what `_write` or `_look` returned.
        """
        for study in self._studies.values():
            study.written(later[study.study_id])
        self._pending.clear()
        self._looked = time.monotonic()

    def _changes(self) -> int:
        """How often something was changed."""
        return self._pending.puts + sum(study.puts for study in self._studies.values())

    def _look(self) -> dict[int, list[int]]:
        """Ids of trials that other processes have added, by study."""
        with self.rdb.engine.begin() as connection:
            for study in self._studies.values():
                study.check_there(connection)
            return {study_id: study.later(connection) for study_id, study in self._studies.items()}

    def _write(self) -> dict[int, list[int]]:
        """Write everything; returns what `_look` does."""
        with self.rdb.engine.connect() as connection, connection.begin() as transaction:
            touched = self._pending.trials()
            for study in self._studies.values():
                study.lock(connection)
                study.check_unended(connection, touched & study.trials.keys())
            later = {study_id: study.later(connection) for study_id, study in self._studies.items()}
            for study in self._studies.values():
                study.write(connection)
            self._pending.write(connection, lambda trial_id: self._of_trial[trial_id].real(trial_id))
            number = transaction_id(connection)
            try:
                transaction.commit()
            except DBAPIError as error:
                if error.connection_invalidated and number is not None:
                    self._unsure = UnsureCommit(number, later, self._changes(), error)
                raise
        return later

    # Studies --------------------------------------------------------------------------------------------------------

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        study, text = self._study(study_id), json.dumps(value)
        study.user_attrs = study.user_attrs | {key: json.loads(text)}
        self._pending.put(rows.STUDY_USER_ATTRS, study_id=study_id, key=key, value_json=text)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        study, text = self._study(study_id), json.dumps(value)
        study.system_attrs = study.system_attrs | {key: json.loads(text)}
        self._pending.put(rows.STUDY_SYSTEM_ATTRS, study_id=study_id, key=key, value_json=text)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._study(study_id).user_attrs

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._study(study_id).system_attrs

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._study(
            next((each.study_id for each in self._studies.values() if each.name == study_name), -1)
        ).study_id

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._study(study_id).name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._study(study_id).directions

    def get_all_studies(self) -> NoReturn:
        raise NotImplementedError("It has the studies that were given to it.")

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> NoReturn:
        raise NotImplementedError("It has the studies that were given to it.")

    def delete_study(self, study_id: int) -> NoReturn:
        raise NotImplementedError("It has the studies that were given to it.")

    # Trials ---------------------------------------------------------------------------------------------------------

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        study, given = self._study(study_id), template_trial or create_trial(state=TrialState.RUNNING)
        trial = _copied(given)
        trial.number, trial._trial_id = study.next_number, -1 - len(self._of_trial)
        trial.params, trial.distributions, trial.intermediate_values = {}, {}, {}
        trial.user_attrs, trial.system_attrs = {}, {}
        for name, distribution in given.distributions.items():
            self._with_param(trial, name, distribution.to_internal_repr(given.params[name]), distribution)
        for step, value in given.intermediate_values.items():
            self._with_report(trial, step, value)
        self._with_attrs(trial, "user_attrs", _as_read(given.user_attrs))
        self._with_attrs(trial, "system_attrs", _as_read(given.system_attrs))
        self._with_values(trial, given.values)
        self._of_trial[trial._trial_id] = study
        study.create(trial)
        return trial._trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        before = self._of(trial_id).distributions.setdefault(param_name, distribution)
        check_distribution_compatibility(before, distribution)
        self.give(trial_id, param_name, param_value_internal, distribution)

    def give(self, trial_id: int, name: str, internal: float, distribution: BaseDistribution) -> None:
        """Set a parameter, whatever distribution other trials have for it."""
        self._change(trial_id, lambda trial: self._with_param(trial, name, internal, distribution))

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self._change(trial_id, lambda trial: self._with_report(trial, step, intermediate_value))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.set_trial_user_attrs(trial_id, {key: _as_read(value)})

    def set_trial_user_attrs(self, trial_id: int, attrs: Mapping[str, Any]) -> None:
        """Set several at once. They are stored as JSON, and kept as they are: nobody may change them afterwards."""
        self._change(trial_id, lambda trial: self._with_attrs(trial, "user_attrs", attrs))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        kept = {key: _as_read(value)}
        self._change(trial_id, lambda trial: self._with_attrs(trial, "system_attrs", kept))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        if state == TrialState.RUNNING and self.get_trial(trial_id).state == TrialState.RUNNING:
            return False

        def move(trial: FrozenTrial) -> None:
            self._with_values(trial, values)
            trial.state = state
            if state == TrialState.RUNNING:
                trial.datetime_start = datetime.now()
            if state.is_finished():
                trial.datetime_complete = datetime.now()

        self._change(trial_id, move)
        return True

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        return self._study(study_id).ids[trial_number]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._of(trial_id).trials[trial_id]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = self._study(study_id).having(states)
        return copy.deepcopy(trials) if deepcopy else trials

    def get_n_trials(self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None) -> int:
        return self._study(study_id).count((state,) if isinstance(state, TrialState) else state)

    def changed(self, study_id: int, since: int) -> tuple[list[FrozenTrial], int]:
        """The trials that were changed or added since an earlier call, and what to give to the next one.

        Args:
            since: what the earlier call returned; 0 for all trials.
        """
        study = self._study(study_id)
        return study.changed(since), study.puts

    # One trial ------------------------------------------------------------------------------------------------------

    def _study(self, study_id: int) -> LeasedStudy:
        """
        Raises:
            KeyError: there is none with this id.
        """
        if study_id not in self._studies:
            raise KeyError(NOT_FOUND_MSG)
        return self._studies[study_id]

    def _of(self, trial_id: int) -> LeasedStudy:
        """The study of a trial.

        Raises:
            KeyError: there is none with this id.
        """
        if trial_id not in self._of_trial:
            raise KeyError(NOT_FOUND_MSG)
        return self._of_trial[trial_id]

    def _change(self, trial_id: int, change: Callable[[FrozenTrial], None]) -> None:
        """Put a changed copy in the place of a trial.

        Raises:
            UpdateFinishedTrialError: it has ended.
        """
        study = self._of(trial_id)
        trial = _copied(study.trials[trial_id])
        self.check_trial_is_updatable(trial_id, trial.state)
        change(trial)
        study.put(trial)

    # These give a trial new mappings: those that it has belong to its earlier state, too.

    def _with_param(self, trial: FrozenTrial, name: str, internal: float, distribution: BaseDistribution) -> None:
        trial.params = trial.params | {name: distribution.to_external_repr(internal)}
        trial.distributions = trial.distributions | {name: distribution}
        drawn = {"param_value": internal, "distribution_json": distribution_to_json(distribution)}
        self._pending.put(rows.PARAMS, trial_id=trial._trial_id, param_name=name, **drawn)

    def _with_report(self, trial: FrozenTrial, step: int, value: float) -> None:
        trial.intermediate_values = trial.intermediate_values | {step: value}
        stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
        row = {"intermediate_value": stored, "intermediate_value_type": kind}
        self._pending.put(rows.REPORTED, trial_id=trial._trial_id, step=step, **row)

    def _with_attrs(self, trial: FrozenTrial, which: str, attrs: Mapping[str, Any]) -> None:
        setattr(trial, which, getattr(trial, which) | attrs)
        table = rows.USER_ATTRS if which == "user_attrs" else rows.SYSTEM_ATTRS
        for key, value in attrs.items():
            self._pending.put(table, trial_id=trial._trial_id, key=key, value_json=_dumped(value))

    def _with_values(self, trial: FrozenTrial, values: Sequence[float] | None) -> None:
        if values is None:
            return
        trial.values = list(values)
        for objective, value in enumerate(values):
            stored, kind = models.TrialValueModel.value_to_stored_repr(value)
            row = {"objective": objective, "value": stored, "value_type": kind}
            self._pending.put(rows.VALUES, trial_id=trial._trial_id, **row)


def _dumped(value: Any) -> str:
    """What `json.dumps` returns, but for spaces, in a fifth of the time."""
    with suppress(ValueError):  # of a text with half a character
        found = ANYTHING.dump_json(value)
        if found.isascii():  # otherwise a database of another encoding could refuse it
            return found.decode()
    return json.dumps(value)


def _as_read(value: Any) -> Any:
    """A copy of a value as it would be read from the database."""
    return json.loads(json.dumps(value))


def _copied(trial: FrozenTrial) -> FrozenTrial:
    """What `copy.copy` returns, in a tenth of the time."""
    new = FrozenTrial.__new__(FrozenTrial)
    new.__dict__.update(trial.__dict__)
    return new

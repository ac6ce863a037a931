"""A sweep's study in Optuna's terms. Trials that did not come from the sweep are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy as copied
from typing import Any, NamedTuple, TypeVar

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.study._tell import _tell_with_warning
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from pydantic import ValidationError

from peftsweep.errors import ForeignStudyError, StorageError
from peftsweep.safe_text.quoting import quoted, shortened
from peftsweep.safe_text.secrets import masked
from peftsweep.storage.attribute_tables import delete_requests, put_request, requests
from peftsweep.storage.attributes import BrokenError, has_record, is_own, read_study, read_trial, stored_in
from peftsweep.storage.leased_storage import LeasedStorage
from peftsweep.storage.optuna_states import in_optuna
from peftsweep.storage.outages import Patience
from peftsweep.storage.record import StudyRecord, TrialRecord
from peftsweep.storage.sweep_record import StopRequest
from peftsweep.trial_state import Ended

# what Optuna and SQLAlchemy raise on values that they have never written
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RecursionError)
T = TypeVar("T")
STRANGE = "did not come from its sweep"


class Known(NamedTuple):
    """A trial, and its record or why there is none. A finished trial keeps its record."""

    trial: FrozenTrial
    record: TrialRecord | str


class StoredStudy(optuna.Study):
    """A study that a sweep has made.

    It hides finished trials that did not come from the sweep, that cannot be read, or that share a number with another
    trial. Nobody sees them, Optuna's samplers and importances included.

    Args:
        url: the storage's, for messages.

    Attributes:
        patience: repeats what this process does while the database does not answer; None: it fails at once.

    Raises:
        ForeignStudyError: it was not made by a sweep.
        StorageError: it cannot be read.
    """

    def __init__(self, name: str, storage: RDBStorage | LeasedStorage, url: str) -> None:
        self._rdb = storage.rdb if isinstance(storage, LeasedStorage) else storage
        self.patience: Patience | None = None
        self._where = f"study {quoted(name)} in {masked(url)}"
        self._known: dict[int, Known] = {}  # by Optuna's id
        self._recorded: tuple[Mapping[str, Any], StudyRecord] | None = None  # the latest attributes and their record
        with reading(self._where):
            super().__init__(name, storage)
            made_by_sweep = has_record(self)
        if not made_by_sweep or self.directions != [StudyDirection.MAXIMIZE]:
            raise ForeignStudyError(f"{self._where} was not made by peftsweep")
        self._objective = self.record.objective
        with reading(self._where, self._culprit):
            super()._get_trials(deepcopy=False)
        self._twice = {number for number, count in Counter(self._numbers()).items() if count > 1}

    @property
    def record(self) -> StudyRecord:
        """What the study records of itself, as it is now.

        Raises:
            StorageError: it has a value that no sweep writes.
        """
        attrs = stored_in(self)
        if self._recorded is None or self._recorded[0] is not attrs:
            try:
                self._recorded = attrs, read_study(attrs)
            except BrokenError as error:
                raise StorageError(
                    f"{self._where} cannot be read: {error}; restore the database from a copy"
                ) from error
        return self._recorded[1]

    @property
    def mlflow_runs(self) -> dict[str, str]:
        """The ids of its runs in MLflow, by trial. A copied study does not own the runs of the first one."""
        return self.record.mlflow_runs if self.is_first else {}

    @property
    def is_first(self) -> bool:
        """Whether its key was made for a study of this name. A copy under another name still has the old key."""
        bound = self.record.bound
        return bound is None or bound.study == self.study_name

    def records(self) -> list[TrialRecord]:
        """Its trials in the order of their creation, waiting ones included."""
        found = [self._record(trial) for trial in self._get_trials(deepcopy=False)]
        return [record for record in found if isinstance(record, TrialRecord)]

    def changes(self, since: int) -> tuple[dict[int, TrialRecord | None], int]:
        """The trials that were changed since an earlier call, by number (None if a trial has no record), and what to
        give to the next call. Of a study that is not in memory, all trials.

        Args:
            since: what the earlier call returned; 0 for all trials.
        """
        if isinstance(self._storage, LeasedStorage):
            changed, until = self._storage.changed(self._study_id, since)
        else:
            changed, until = super()._get_trials(deepcopy=False), 0
        records = {trial.number: self._record(trial) for trial in changed}
        return {each: found if isinstance(found, TrialRecord) else None for each, found in records.items()}, until

    def trial(self, number: int) -> TrialRecord | str:
        """The record of a trial, or why it has none."""
        try:
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        except KeyError:
            return "it is not there"
        return self._record(self._storage.get_trial(trial_id))

    def end(self, trial: optuna.Trial, state: Ended, value: float | None = None) -> None:
        """Store how a trial ended. `tell` does the same, and returns a deep copy of the trial, which takes longer."""
        _tell_with_warning(self, trial, value, in_optuna(state))

    def flush(self) -> None:
        """Write what this process has changed, if it holds the study in memory; see `LeasedStorage.flush`."""
        if isinstance(self._storage, LeasedStorage):
            self.patiently(self._storage.flush)

    def patiently(self, do: Callable[[], T]) -> T:
        """Do something with the database, which may be repeated. See `Studies.hold`."""
        return do() if self.patience is None else self.patience(do)

    def ask_to_stop(self, request: StopRequest) -> None:
        """Leave a request for the sweep that runs this study."""
        with self._rdb.engine.begin() as connection:
            put_request(connection, self._study_id, request.model_dump_json())

    def take_requests(self, token: str, take: Callable[[StopRequest], object]) -> None:
        """Take the requests for the sweep with this token, then delete them, and those that earlier sweeps have left.
        One that cannot be deleted is taken again by the next call."""
        found = self.patiently(self._requests)
        for request in map(_request, found.values()):
            if request is not None and request.token == token:
                take(request)
        if found:
            self.patiently(lambda: self._delete_requests(found))

    def _requests(self) -> dict[str, str]:
        with self._rdb.engine.connect() as connection:
            return requests(connection, self._study_id)

    def _delete_requests(self, keys: Iterable[str]) -> None:
        with self._rdb.engine.begin() as connection:
            delete_requests(connection, self._study_id, keys)

    def left_out(self) -> Iterator[str]:
        """Lines that say which trials have no record, and why."""
        trials = [trial for trial in super()._get_trials(deepcopy=False) if trial.number not in self._twice]
        found = {trial.number: self._record(trial) for trial in trials}
        why = {number: record for number, record in found.items() if isinstance(record, str)}
        if strange := [str(number) for number, reason in why.items() if reason == STRANGE]:
            several = "s" * (len(strange) > 1)
            yield f"{self._where}: trial{several} {shown(strange)} {STRANGE}, and {'are' if several else 'is'} left out"
        if broken := {number: reason for number, reason in why.items() if reason != STRANGE}:
            number, reason = next(iter(broken.items()))
            more = f", and {len(broken) - 1} more" if len(broken) > 1 else ""
            yield f"{self._where}: trial {number} cannot be read ({reason}){more}, and is left out"
        if self._twice:
            twice = shown([str(number) for number in sorted(self._twice)])
            yield f"{self._where}: more than one trial has number {twice}; they are left out"

    def check_numbers(self) -> None:
        """Raises:
        StorageError: the trials are not numbered 0, 1, 2 and so on, as after rows were deleted or inserted. A new trial
            would get the number, and so the folder, of another one.
        """
        numbers = sorted(self._numbers())
        wrong = next((at for at, number in enumerate(numbers) if number != at), None)
        if wrong is not None:
            what = f"{wrong} is missing" if numbers[wrong] > wrong else f"expected {wrong}, found {numbers[wrong]}"
            what = f"more than one has {numbers[wrong]}" if numbers[wrong] in self._twice else what
            raise StorageError(
                f"{self._where}: the numbers of its {len(numbers)} trials are not 0 to {len(numbers) - 1} ({what}): "
                "rows were deleted or inserted; restore the database from a copy"
            )

    def _numbers(self) -> list[int]:
        """Numbers from the table itself: Optuna's calls show only one trial for each number."""
        query = sqlalchemy.text("SELECT number FROM trials WHERE study_id = :study")
        with self._rdb.engine.connect() as connection:
            return list(connection.execute(query, {"study": self._study_id}).scalars())

    def has_trials(self) -> bool:
        """Whether a sweep has made any trials, readable or not."""
        return any(is_own(trial) for trial in super()._get_trials(deepcopy=False))

    def why_unreadable(self, number: int) -> str | None:
        """Why a trial has no record; None if it has one."""
        record = self.trial(number)
        return record if isinstance(record, str) else None

    def _get_trials(
        self, deepcopy: bool = True, states: Container[OptunaState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache)
        once = [trial for trial in trials if trial.number not in self._twice]
        return [t for t in once if not t.state.is_finished() or isinstance(self._record(t), TrialRecord)]

    def _get_best_trial(self, deepcopy: bool) -> FrozenTrial:
        complete = self._get_trials(deepcopy=False, states=(OptunaState.COMPLETE,))
        if not complete:
            raise ValueError("No trials are completed yet.")  # Optuna's own words
        best = max(complete, key=lambda trial: (trial.values[0], -trial.number))
        return copied(best) if deepcopy else best

    def _record(self, trial: FrozenTrial) -> TrialRecord | str:
        known = self._known.get(trial._trial_id)
        if known is not None and (known.trial is trial or known.trial.state.is_finished()):
            return known.record
        found: TrialRecord | str = STRANGE
        if is_own(trial):
            try:
                found = read_trial(trial, self._objective)
            except BrokenError as error:
                found = str(error)
        self._known[trial._trial_id] = Known(trial, found)
        return found

    def _culprit(self) -> str:
        """Which trial Optuna cannot read, for a message."""
        query = sqlalchemy.text("SELECT trial_id, number FROM trials WHERE study_id = :study ORDER BY trial_id")
        with self._rdb.engine.connect() as connection:
            trials = connection.execute(query, {"study": self._study_id}).all()
        for trial_id, number in trials:
            if not isinstance(number, int):
                return f", a trial of number {quoted(number)},"
            try:
                self._rdb.get_trial(trial_id)
            except UNREADABLE:
                return f", trial {number},"
        return ""


def _request(stored: str) -> StopRequest | None:
    try:
        return StopRequest.model_validate_json(stored)
    except ValidationError:  # nothing that `ask_to_stop` writes
        return None


def shown(numbers: list[str], most: int = 10) -> str:
    return ", ".join(numbers[:most]) + (f" and {len(numbers) - most} more" if len(numbers) > most else "")


@contextmanager
def reading(what: str, culprit: Callable[[], str] = str) -> Iterator[None]:
    """Turn errors about unreadable values in the database into one message.

    Args:
        what: what is being read.
        culprit: says which part of it cannot be read.

    Raises:
        StorageError: a value cannot be read.
    """
    try:
        yield
    except UNREADABLE as error:
        where = ""
        with suppress(sqlalchemy.exc.SQLAlchemyError, *UNREADABLE):
            where = culprit()
        first = next(iter(str(error).splitlines()), "")
        raise StorageError(
            f"{what}{where} cannot be read: the database has a value that Optuna never writes "
            f"({shortened(f'{type(error).__name__}: {first}')}); restore it from a copy"
        ) from error

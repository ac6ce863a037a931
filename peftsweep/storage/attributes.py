"""Optuna's user attributes, read into records and written from them. No other file touches them.

A sweep records each fact under a key of its own, as JSON. A finished trial without such keys did not come from a sweep:
this is how a sweep's trials are recognised among others in the same study.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict, Unpack

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, create_trial
from pydantic import BaseModel, ValidationError

from peftsweep.safe_text.quoting import quoted, word
from peftsweep.scores import Objective
from peftsweep.storage.leased_storage import LeasedStorage
from peftsweep.storage.optuna_states import from_optuna, in_optuna
from peftsweep.storage.record import StudyRecord, TaskKind, TrialRecord
from peftsweep.storage.record_parts import Bound, EvaluationRecord, HeldOutScores, Part, Retrained
from peftsweep.storage.sweep_record import SweepRecord
from peftsweep.trial_state import TrialState

OWN = ("params", "reason")  # a sweep writes the first when a trial begins, the second when it ends
ENQUEUED = "fixed_params"  # where Optuna keeps the parameters that a trial was enqueued with


class BrokenError(Exception):
    """What is wrong with an attribute, in a line."""


def stored_in(study: optuna.Study) -> Mapping[str, Any]:
    """A study's attributes, to be read only. A study in memory returns the same object until one changes."""
    return study._storage.get_study_user_attrs(study._study_id)


def read_study(attrs: Mapping[str, Any]) -> StudyRecord:
    """
    Args:
        attrs: the study's user attributes.

    Raises:
        BrokenError: an attribute is missing, or has a value that no sweep writes.
    """
    try:
        return StudyRecord.model_validate(attrs)
    except ValidationError as error:
        raise BrokenError(_first_mistake(error)) from error


def has_record(study: optuna.Study) -> bool:
    """Whether a sweep made this study."""
    return "config" in study.user_attrs


def has_record_in(storage: BaseStorage, study_id: int) -> bool:
    """The same, of a study that is not opened."""
    return "config" in storage.get_study_user_attrs(study_id)


def is_own(trial: FrozenTrial) -> bool:
    """Whether a trial is a sweep's: it has not ended, or a sweep has recorded what it records of every trial."""
    return not trial.state.is_finished() or any(name in trial.user_attrs for name in OWN)


def read_trial(trial: FrozenTrial, objective: str) -> TrialRecord:
    """Raises:
    BrokenError: an attribute is missing, or has a value that no sweep writes.
    """
    itself = {
        "number": trial.number,
        "state": from_optuna(trial.state),
        "values": trial.values or [],
        "drawn": trial.params,
        "reported": trial.intermediate_values,
    }
    # A sweep records times of its own. Optuna's have no time zone, and whoever reads them may be in another one than
    # the machine that wrote them. Trials of earlier versions have only Optuna's.
    if not trial.state.is_finished():
        itself["ended"] = None  # it is recorded a moment before Optuna ends the trial
    try:
        times = {"began": _milliseconds(trial.datetime_start), "ended": _milliseconds(trial.datetime_complete)}
        record = TrialRecord.model_validate({**times, **trial.user_attrs, **itself})
    except ValidationError as error:
        raise BrokenError(_first_mistake(error)) from error
    except (OverflowError, ValueError, OSError) as error:  # a year that the clock does not reach
        raise BrokenError(f"its times: {error}") from error
    if record.state.finished:
        _check_drawn(trial)
    if record.state == TrialState.COMPLETE and record.value != record.scores.get(objective):
        raise BrokenError(
            f"its value is {quoted(record.value)}, and {objective} {quoted(record.scores.get(objective))}"
        )
    return record


def enqueued_with(trial: FrozenTrial) -> Any:
    """The parameters that a trial was enqueued with, by name. Nobody has checked them: they may be any JSON."""
    return trial.system_attrs.get(ENQUEUED, {})


def _check_drawn(trial: FrozenTrial) -> None:
    """Raises:
    BrokenError: a parameter has a value that cannot have been drawn.
    """
    for name, value in trial.params.items():
        distribution = trial.distributions[name]
        try:
            possible = distribution._contains(distribution.to_internal_repr(value))
        except (TypeError, ValueError, OverflowError):
            possible = False
        if not possible:
            raise BrokenError(f"parameter {word(name)}: {quoted(value)} is not what it was drawn from")


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(1000 * moment.timestamp())


def _first_mistake(error: ValidationError) -> str:
    """The first mistake in a few words, without repeating a value of a megabyte."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    said = str(first["msg"]).removeprefix("Value error, ")
    got = "" if first["type"] in ("missing", "value_error") else f", got {quoted(first['input'])}"
    return f"{place}{': ' if place else ''}{said[:1].lower()}{said[1:]}{got}"


class StudyFacts(TypedDict, total=False):
    """Fields of `StudyRecord` that can be written; see there."""

    identity: dict[str, Any]
    splits: dict[str, int]  # rows of each split; for people who look into the database
    fingerprint: str
    validation_fingerprint: str
    data: str
    labels: list[str]
    kind: TaskKind
    objective: Objective
    key: str
    bound: Bound
    total: int
    described: dict[str, Any]
    memory: dict[str, int]
    test: HeldOutScores
    retrained: list[Retrained]
    summary: dict[str, float | None]
    began: int
    base: str | None
    mlflow_runs: dict[str, str]
    in_sync: bool
    mlflow_lost: bool
    retrain_of: str | None
    sweep: SweepRecord


class TrialFacts(TypedDict, total=False):
    """Fields of `TrialRecord` that can be written; see there."""

    params: dict[str, Any]
    seed: int
    evaluations: list[EvaluationRecord]
    scores: Mapping[str, float]
    step: int | None
    parameters: int
    reason: str
    seconds: float
    adapter: str | None
    began: int
    ended: int
    pauses: list[list[int]]
    kept: int
    dropped: int
    retrains: int
    replicate: int
    worker: str
    method: dict[str, Any]


def write_study(study: optuna.Study, **facts: Unpack[StudyFacts]) -> None:
    """Record facts of a study, in this order, each in a transaction of its own."""
    for name, value in facts.items():
        study.set_user_attr(_key(StudyRecord, name), _plain(value))


def write_trial(trial: optuna.Trial, **facts: Unpack[TrialFacts]) -> None:
    """Record facts of a trial: in memory all at once, otherwise in this order, each in a transaction of its own."""
    attrs = {_key(TrialRecord, name): _plain(value) for name, value in facts.items()}
    if isinstance(trial.storage, LeasedStorage):
        trial.storage.set_trial_user_attrs(trial._trial_id, attrs)
        return
    for key, value in attrs.items():
        trial.set_user_attr(key, value)


def running_trial(**facts: Unpack[TrialFacts]) -> FrozenTrial:
    """A running trial to be added to a study, with these facts from its first moment on."""
    known = {_key(TrialRecord, name): _plain(value) for name, value in facts.items()}
    return create_trial(state=in_optuna(TrialState.RUNNING), user_attrs=known)


def _key(record: type[Part], name: str) -> str:
    """The attribute that holds a field."""
    field = record.model_fields.get(name)
    return name if field is None or field.alias is None else field.alias


def _plain(value: Any) -> Any:
    """A value as JSON has it; fields that nobody set are left out."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    return [_plain(each) for each in value] if isinstance(value, list) else value

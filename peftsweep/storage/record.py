"""What a study and its trials keep of themselves, read and checked in one place.

A sweep keeps it in Optuna's user attributes, one key a fact. A finished trial without them did not come from a sweep:
that is how its own are told from others that stand in the same study.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from optuna.trial import FrozenTrial, TrialState
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from peftsweep.config import DataConfig, Method, ModelConfig, Range
from peftsweep.safe_text.quoting import quoted, word
from peftsweep.storage.value_limits import LARGEST, Count, Moment, Number, Seconds, Text, Value

Objective = Literal["macro_f1", "macro_f1_tuned"]
Scores = dict[Text, float]  # see `Task.scores`; of an evaluation that failed its trial, they may not be finite
SHOWN = ("macro_f1", "micro_f1", "accuracy", "loss")  # what each complete trial has
SHARES = ("macro_f1", "micro_f1", "accuracy", "macro_f1_tuned", "jaccard")  # scores from 0 to 1
DONE = ("params", "reason")  # a sweep keeps the one as a trial begins, the other as it ends


class Record(BaseModel):
    """Strict: what a sweep wrote has the right types. What a later version adds is no mistake."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", use_attribute_docstrings=True)


class Evaluation(Record):
    """One look at the validation split; see `engine.Evaluation`."""

    index: Annotated[int, Field(ge=1)]
    step: Count
    epoch: Annotated[Number, Field(ge=0)]
    train_loss: float
    learning_rate: Number
    scores: Scores
    at: Moment | None = None


class TrialRecord(Record):
    """A trial of a sweep."""

    number: Count
    state: TrialState
    value: float | None = None
    """Of the objective, of a complete trial."""
    drawn: dict[str, Any]
    """Optuna's parameters."""
    reported: dict[int, float]
    """Of the objective, by evaluation."""
    params: dict[Text, Value] = {}
    """All hyperparameters, sampled and fixed; none before it has begun."""
    seed: Count | None = None
    evaluations: list[Evaluation] = []
    scores: Scores = {}
    """Of the best evaluation."""
    step: Count | None = None
    """Of the best evaluation."""
    parameters: Count | None = None
    """Trained ones."""
    reason: Text = ""
    """Why it ended."""
    seconds: Seconds | None = None
    adapter: Text | None = None
    began: Moment | None = None
    ended: Moment | None = None
    pauses: list[list[Moment]] = []
    """From the last that was kept of it to when it went on, one for each process that did."""
    kept: Count = 0
    """The last evaluation after which the pruner let it go on."""
    dropped: Count | None = None
    """The evaluation after which the pruner ended it."""
    retrains: Count | None = None
    """Of a seed: the number of the study's trial whose configuration it has."""
    replicate: Annotated[int, Field(ge=1, le=2**32)] | None = None
    """Of a seed: which one it is, from 1."""

    @property
    def begun(self) -> bool:
        """Whether it counts towards the study's total: it is being trained, or was. An enqueued one waits to be, and
        one that could not be trained has no hyperparameters."""
        return self.state != TrialState.WAITING and (bool(self.params) or not self.state.is_finished())

    @model_validator(mode="after")
    def _consistent(self) -> TrialRecord:
        if any(len(pause) != 2 for pause in self.pauses):
            raise ValueError("pauses: expected two moments each")
        if [evaluation.index for evaluation in self.evaluations] != [*range(1, len(self.evaluations) + 1)]:
            raise ValueError("evaluations: one is missing, or they are in another order")
        if strange := [value for value in self.reported.values() if math.isfinite(value) and not 0 <= value <= 1]:
            raise ValueError(f"it has reported {quoted(strange[0])}, which is no score")
        begun = self.params or self.state.is_finished()
        if not begun and (self.reported or self.evaluations or self.scores or self.seconds or self.reason):
            raise ValueError("it has results, and no sweep has begun it")
        if self.state == TrialState.COMPLETE:
            self._check_complete()
        return self

    def _check_complete(self) -> None:
        lacking = [name for name in SHOWN if name not in self.scores]
        lacking += [name for name in ("params", "seed", "step") if getattr(self, name) in ({}, None)]
        if lacking:
            raise ValueError(f"{lacking[0]}: missing from a complete trial")
        if self.value is None or not 0 <= self.value <= 1:
            raise ValueError(f"its value is {quoted(self.value)}, which is no score")
        _check_scores(self.scores)
        if self.adapter is not None and f"/trial-{self.number:04d}/" not in self.adapter:
            raise ValueError(f"its adapter is {quoted(self.adapter)}, of another trial")


def _check_scores(scores: Mapping[str, float | None]) -> None:
    """Raises:
    ValueError: one is no score.
    """
    for name, score in scores.items():
        finite = score is None or abs(score) <= LARGEST  # a number that is none is not
        if not finite or (name in SHARES and score is not None and not 0 <= score <= 1):
            raise ValueError(f"scores.{name} is {quoted(score)}, which is no score")


class Tested(Record):
    """Scores on the test split."""

    trial: Count
    scores: dict[Text, float | None]
    """Of seeds: means and deviations."""
    seeds: Count | None = None

    @model_validator(mode="after")
    def _has_scores(self) -> Tested:
        end = "" if self.seeds is None else "_mean"
        if self.scores.get(f"macro_f1{end}") is None:
            raise ValueError(f"scores.macro_f1{end}: missing")
        _check_scores(self.scores)
        return self


class Behind(Record):
    """How far a configuration is behind the first; see `sweep.seeds.behind_first`."""

    mean: Number
    low: Number
    high: Number
    seeds: Count
    pairs: Count = 1


class Retrained(Record):
    """A configuration over several seeds; see `sweep.seeds.summarised`."""

    model_config = ConfigDict(extra="allow")

    trial: Count
    params: dict[Text, Value]
    sampled: list[Text]
    objective: Objective
    picked: Annotated[float, Field(ge=0, le=1)]
    seeds: Count
    failed: Count
    behind: Behind | None
    test: dict[Text, Count | Number | None] | None

    @model_validator(mode="after")
    def _has_means(self) -> Retrained:
        figures = {name: v for name, v in (self.model_extra or {}).items() if name.endswith(("_mean", "_std"))}
        if not all(value is None or (isinstance(value, float) and abs(value) <= LARGEST) for value in figures.values()):
            raise ValueError("expected numbers as means and deviations")
        if self.test and self.test.get("seeds") is None:
            raise ValueError("test.seeds is missing")
        if self.seeds and figures.get(f"{self.objective}_mean") is None:
            raise ValueError(f"{self.objective}_mean is missing")
        return self


class Described(Record):
    """What a study file says of a study; see `StudyConfig.identity`."""

    model: ModelConfig
    method: Method
    data: DataConfig
    space: dict[Text, Range | Annotated[list[Value], Field(min_length=1)]]


class Bound(Record):
    """What a study's key was made for; see `identity`."""

    key: Text
    study: Text
    storage: Text
    server: Text | None = None
    was: Text | None = None
    """Of a copy, the key of the study that it was copied from."""


def _retrained(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row in rows:
        Retrained.model_validate(row)
    return rows


def _different(labels: list[str]) -> list[str]:
    if len(set(labels)) < len(labels):
        raise ValueError("two are the same")
    return labels


class StudyRecord(Record):
    """A study of a sweep, or the seeds of one. `config` is written last: where it is, the others are."""

    config: Described
    fingerprint: Text
    """Of the data, all splits of it."""
    validation_fingerprint: Text | None = None
    experiment: Text
    """What the data is called."""
    labels: Annotated[list[Text], Field(min_length=1), AfterValidator(_different)]
    kind: Literal["single-label", "multi-label"] | None = None
    """Of task; a study of version 0.1 has none of its own there."""
    metric: Objective = "macro_f1"
    key: Text | None = None
    """What tells it from other studies, of the same name too."""
    bound: Bound | None = None
    total: Count | None = None
    """Trials that it was to have at its last run."""
    described: dict[Text, Value] = {}
    """What all its trials share."""
    memory: dict[Text, Count] = {}
    """In bytes."""
    test: Tested | None = None
    retrained: Annotated[list[dict[str, Any]], AfterValidator(_retrained)] | None = None
    """Rows of `sweep.seeds.summarised`."""
    summary: dict[Text, Number | None] | None = None
    began: Moment | None = None
    base: Text | None = None
    """The base's revision, on which it was trained."""
    mlflow_runs: dict[Text, Text] = {}
    mlflow_level: bool | None = None
    mlflow_lost: bool = False
    retrain_of: Text | None = None
    """Of seeds: the key of the study whose configurations they have."""

    @property
    def kind_of_task(self) -> Literal["single-label", "multi-label"]:
        """The data decides: a column of lists has several labels a text."""
        return self.kind or ("single-label" if self.config.data.single_label else "multi-label")


class BrokenError(Exception):
    """What is wrong with an attribute, in a line."""


def study_record(attrs: Mapping[str, Any]) -> StudyRecord:
    """Raises:
    BrokenError: an attribute is missing, or has a value that no sweep writes.
    """
    try:
        return StudyRecord.model_validate(dict(attrs))
    except ValidationError as error:
        raise BrokenError(_first(error)) from error


def is_own(trial: FrozenTrial) -> bool:
    """Whether a trial is a sweep's own: it is to be trained yet, or a sweep has kept what it keeps of all trials."""
    return not trial.state.is_finished() or any(name in trial.user_attrs for name in DONE)


def trial_record(trial: FrozenTrial, objective: str) -> TrialRecord:
    """Raises:
    BrokenError: an attribute is missing, or has a value that no sweep writes.
    """
    itself = {
        "number": trial.number,
        "state": trial.state,
        "value": (trial.values or [None])[0],
        "drawn": trial.params,
        "reported": trial.intermediate_values,
    }
    # The sweep keeps the times beside Optuna's own, which say nothing of their zone: who reads them may live in another
    # than the machine that wrote them. Trials of earlier versions have those alone.
    if not trial.state.is_finished():
        itself["ended"] = None  # kept a moment before Optuna is told
    try:
        times = {"began": _milliseconds(trial.datetime_start), "ended": _milliseconds(trial.datetime_complete)}
        record = TrialRecord.model_validate({**times, **trial.user_attrs, **itself})
    except ValidationError as error:
        raise BrokenError(_first(error)) from error
    except (OverflowError, ValueError, OSError) as error:  # of a year that the clock does not reach
        raise BrokenError(f"its times: {error}") from error
    if trial.state.is_finished():
        _check_drawn(trial)
    if record.state == TrialState.COMPLETE and record.value != record.scores.get(objective):
        raise BrokenError(
            f"its value is {quoted(record.value)}, and {objective} {quoted(record.scores.get(objective))}"
        )
    return record


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


def _first(error: ValidationError) -> str:
    """What is wrong first, in a few words, without a value of a megabyte."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    said = str(first["msg"]).removeprefix("Value error, ")
    got = "" if first["type"] in ("missing", "value_error") else f", got {quoted(first['input'])}"
    return f"{place}{': ' if place else ''}{said[:1].lower()}{said[1:]}{got}"

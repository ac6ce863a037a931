"""What a study and its trials record of themselves: all that best, status, comparison, export and retrain read.

Records live in storage/, below study/, because a storage hands out studies that have been read and checked:
`Studies.load` returns a `StoredStudy`, and its trials are `TrialRecord`s. `attributes.py` reads and writes them.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from peftsweep.safe_text.quoting import quoted
from peftsweep.scores import Objective
from peftsweep.storage.record_parts import (
    Bound,
    Described,
    EvaluationRecord,
    HeldOutScores,
    Part,
    Retrained,
    Scores,
    check_scores,
)
from peftsweep.storage.sweep_record import SweepRecord
from peftsweep.storage.value_limits import Count, Moment, Number, Seconds, Text, Value
from peftsweep.trial_state import TrialState

TaskKind = Literal["single-label", "multi-label"]
ALWAYS = ("macro_f1", "micro_f1", "accuracy", "loss")  # every version has recorded them; trials may lack later scores


class TrialRecord(Part):
    """A trial of a sweep."""

    number: Count
    state: TrialState
    values: list[float] = Field(default_factory=list)
    """The value of each objective; today there is one. Optuna gives a pruned trial the last value that it reported."""
    drawn: dict[str, Any]
    """Optuna's parameters."""
    reported: dict[int, float]
    """The objective's value at each evaluation."""
    params: dict[Text, Value] = Field(default_factory=dict)
    """All hyperparameters, sampled and fixed; empty before the trial begins."""
    seed: Count | None = None
    evaluations: list[EvaluationRecord] = Field(default_factory=list)
    scores: Scores = Field(default_factory=dict)
    """Scores at the best evaluation."""
    step: Count | None = None
    """Step of the best evaluation."""
    parameters: Count | None = None
    """Number of trained parameters."""
    reason: Text = ""
    """Why the trial ended."""
    seconds: Seconds | None = None
    adapter: Text | None = None
    """Folder of the adapter, inside the folder of artifacts."""
    began: Moment | None = None
    ended: Moment | None = None
    pauses: list[list[Moment]] = Field(default_factory=list)
    """One pair for each process that resumed the trial: when it was last saved, and when it went on."""
    kept: Count = 0
    """The last evaluation after which the pruner kept the trial."""
    dropped: Count | None = None
    """The evaluation after which the pruner ended the trial."""
    retrains: Count | None = None
    """In a seed's trial: the number of the study's trial whose configuration it has."""
    replicate: Annotated[int, Field(ge=1, le=2**32)] | None = None
    """In a seed's trial: which seed it is, from 1."""
    worker: Text | None = None
    """The worker that trains it, or the last one that did, such as `3 on cuda:1 of node-b`. None if the sweep's own
    process trained it; the device is then in `StudyRecord.described`."""
    method: dict[Text, Value] = Field(default_factory=dict)
    """What the study's method records besides; no method does today."""

    @property
    def value(self) -> float | None:
        """The value of the first objective, by which trials are ranked."""
        return self.values[0] if self.values else None

    @property
    def begun(self) -> bool:
        """Whether the trial counts towards the study's total: it is being trained, or was. One that waits does not
        count, nor does one that could not be trained: it has no hyperparameters."""
        return self.state != TrialState.WAITING and (bool(self.params) or not self.state.finished)

    @model_validator(mode="after")
    def _consistent(self) -> TrialRecord:
        if any(len(pause) != 2 for pause in self.pauses):
            raise ValueError("pauses: expected two moments each")
        if [evaluation.index for evaluation in self.evaluations] != [*range(1, len(self.evaluations) + 1)]:
            raise ValueError("evaluations: one is missing, or they are in another order")
        if strange := [value for value in self.reported.values() if math.isfinite(value) and not 0 <= value <= 1]:
            raise ValueError(f"it has reported {quoted(strange[0])}, which is no score")
        begun = self.params or self.state.finished
        if not begun and (self.reported or self.evaluations or self.scores or self.seconds or self.reason):
            raise ValueError("it has results, and no sweep has begun it")
        if self.state == TrialState.COMPLETE:
            self._check_complete()
        return self

    def _check_complete(self) -> None:
        lacking = [name for name in ALWAYS if name not in self.scores]
        lacking += [name for name in ("params", "seed", "step") if getattr(self, name) in ({}, None)]
        if lacking:
            raise ValueError(f"{lacking[0]}: missing from a complete trial")
        if self.value is None or not 0 <= self.value <= 1:
            raise ValueError(f"its value is {quoted(self.value)}, which is no score")
        check_scores(self.scores)
        if self.adapter is not None and f"/trial-{self.number:04d}/" not in self.adapter:
            raise ValueError(f"its adapter is {quoted(self.adapter)}, of another trial")


def _distinct(labels: list[str]) -> list[str]:
    if len(set(labels)) < len(labels):
        raise ValueError("two are the same")
    return labels


class StudyRecord(Part):
    """A study of a sweep, or the study of its seeds. `config` is written last: if it is there, so are the others."""

    config: Described
    identity: dict[Text, Any] = Field(alias="config")
    """`config` as it was written, for comparing it with a study file."""
    fingerprint: Text
    """Identifies the rows of all splits."""
    validation_fingerprint: Text | None = None
    data: Text = Field(alias="experiment")
    """Name of the data, and of MLflow's experiment."""
    labels: Annotated[list[Text], Field(min_length=1), AfterValidator(_distinct)]
    kind: TaskKind | None = None
    """Kind of task; studies of version 0.1 do not record it."""
    objective: Objective = Field("macro_f1", alias="metric")
    key: Text | None = None
    """Tells the study from others, also from one of the same name."""
    bound: Bound | None = None
    total: Count | None = None
    """Total number of trials, as its last run wanted it."""
    described: dict[Text, Value] = Field(default_factory=dict)
    """What all its trials share."""
    memory: dict[Text, Count] = Field(default_factory=dict)
    """GPU memory in bytes: planned, and the peak."""
    test: HeldOutScores | None = None
    retrained: list[Retrained] | None = None
    """The configurations that were retrained, in the order of `study.seeds.summarised`."""
    summary: dict[Text, Number | None] | None = None
    """In the study of the seeds: means and deviations of the best configuration."""
    began: Moment | None = None
    base: Text | None = None
    """Revision of the base that its trials were trained on."""
    mlflow_runs: dict[Text, Text] = Field(default_factory=dict)
    """MLflow's run ids, by trial number; `parent` is the study's own."""
    in_sync: bool | None = Field(None, alias="mlflow_level")
    """Whether MLflow has everything."""
    mlflow_lost: bool = False
    """Whether an update to MLflow was lost for good."""
    retrain_of: Text | None = None
    """In the study of the seeds: the key of the study whose configurations they have."""
    sweep: SweepRecord | None = None
    """The sweep that runs it, or the last one that did; earlier versions did not record it."""

    @property
    def kind_of_task(self) -> TaskKind:
        """Where it is not recorded, the data decides: a column of lists means several labels per text."""
        return self.kind or ("single-label" if self.config.data.single_label else "multi-label")

"""What a record is made of: an evaluation, a test score, a retrained configuration, what a study's key is bound to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from peftsweep.config import MAX_NUMBER, DataConfig, ModelConfig, Range
from peftsweep.safe_text.quoting import quoted
from peftsweep.scores import SCORES, Objective
from peftsweep.storage.value_limits import Count, Moment, Number, Text, Value

Scores = dict[Text, float]  # see `Task.scores`; those of an evaluation that failed its trial may not be finite


class Part(BaseModel):
    """Strict: a sweep writes values of the right types. Fields that a later version adds are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", use_attribute_docstrings=True)


class EvaluationRecord(Part):
    """The scores of a trial on the validation split at one step; see `engine.Evaluation`."""

    index: Annotated[int, Field(ge=1)]
    step: Count
    epoch: Annotated[Number, Field(ge=0)]
    train_loss: float
    learning_rate: Number
    scores: Scores
    at: Moment | None = None


def check_scores(scores: Mapping[str, float | None]) -> None:
    """Raises:
    ValueError: one of them is no score.
    """
    for name, score in scores.items():
        if score is None:
            continue
        share = name in SCORES and SCORES[name].share
        if not abs(score) <= MAX_NUMBER or (share and not 0 <= score <= 1):  # `not`: NaN compares as false
            raise ValueError(f"scores.{name} is {quoted(score)}, which is no score")


class HeldOutScores(Part):
    """Scores on the test split: those of a trial or, if `seeds` is given, means and deviations over seeds.

    A score that is not finite becomes None: a model may fail on a text of the test split, and the split is scored once.
    """

    trial: Count
    scores: dict[Text, float | None]
    seeds: Count | None = None

    @property
    def lost(self) -> list[str]:
        """Names of the scores that were not finite. A single seed has no deviation, which is no loss."""
        return [name for name, score in self.scores.items() if score is None and not name.endswith("_std")]

    @field_validator("scores")
    @classmethod
    def _finite_or_none(cls, scores: dict[str, float | None]) -> dict[str, float | None]:
        return {name: score if score is not None and math.isfinite(score) else None for name, score in scores.items()}

    @model_validator(mode="after")
    def _has_scores(self) -> HeldOutScores:
        end = "" if self.seeds is None else "_mean"
        if f"macro_f1{end}" not in self.scores:
            raise ValueError(f"scores.macro_f1{end}: missing")
        check_scores(self.scores)
        return self


class Behind(Part):
    """How far a configuration is behind the first; see `study.seeds.behind_first`."""

    mean: Number
    low: Number
    high: Number
    seeds: Count
    pairs: Count | None = None
    """Number of pairs that the interval is corrected for; earlier versions corrected for none."""


class Retrained(Part):
    """A configuration over several seeds; see `study.seeds.summarised`."""

    model_config = ConfigDict(extra="allow")

    trial: Count
    """The study's trial that has this configuration."""
    params: dict[Text, Value]
    sampled: list[Text]
    """Names of the sampled hyperparameters."""
    objective: Objective
    picked: Annotated[float, Field(ge=0, le=1)]
    """The trial's score in the sweep."""
    seeds: Count
    """Number of complete seeds."""
    failed: Count
    figures: dict[Text, float | None]
    """Means and deviations over the complete seeds: `macro_f1_mean`, `macro_f1_std` and so on. They are recorded among
    the other fields, not in a mapping of their own."""
    shared: Count | None = None
    """Number of seeds that the order of the configurations is based on; earlier versions did not record it."""
    behind: Behind | None
    test: dict[Text, Count | Number | None] | None
    """The same figures on the test split, and their `seeds`."""

    def as_dict(self) -> dict[str, Any]:
        """As it is recorded, and as `--json` prints it."""
        return self.model_dump(exclude_unset=True)

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, row: Any) -> Any:
        if not isinstance(row, Mapping) or "figures" in row:
            return row
        figures = {name: value for name, value in row.items() if str(name).endswith(("_mean", "_std"))}
        return {name: value for name, value in row.items() if name not in figures} | {"figures": figures}

    @model_serializer(mode="wrap")
    def _spread(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in handler(self).items():
            found |= value if name == "figures" else {name: value}
        return found

    @model_validator(mode="after")
    def _has_means(self) -> Retrained:
        if not all(value is None or abs(value) <= MAX_NUMBER for value in self.figures.values()):
            raise ValueError("expected numbers as means and deviations")
        if self.test and self.test.get("seeds") is None:
            raise ValueError("test.seeds is missing")
        if self.seeds and self.figures.get(f"{self.objective}_mean") is None:
            raise ValueError(f"{self.objective}_mean is missing")
        return self


class Described(Part):
    """What a study file says about a study; see `StudyConfig.identity`."""

    model: ModelConfig
    method: Text
    """It need not be registered: whoever reads a study does not train it."""
    data: DataConfig
    space: dict[Text, Range | Annotated[list[Value], Field(min_length=1)]]


class Bound(Part):
    """The study that a key was made for; see `storage.identity`."""

    key: Text
    study: Text
    storage: Text
    server: Text | None = None
    was: Text | None = None
    """In a copy: the key of the study that it was copied from."""

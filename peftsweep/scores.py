"""Which scores are there, and what are they called? (task/metrics.py computes them.)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, Literal, NamedTuple, TypeVar, cast

S = TypeVar("S", bound=float | None)

Objective = Literal["macro_f1", "macro_f1_tuned"]
"""The scores that a search can maximise."""


class Score(NamedTuple):
    """How a score is shown, and what it can be.

    Attributes:
        label: its name in tables, lines and pages.
        share: whether it lies between 0 and 1.
        column: whether tables of studies have a column for it.
    """

    label: str
    share: bool = True
    column: bool = True


SCORES = {
    "macro_f1": Score("macro-F1"),
    "macro_f1_tuned": Score("tuned macro-F1"),  # with a threshold of its own for each label
    "micro_f1": Score("micro-F1"),
    "accuracy": Score("accuracy"),
    "jaccard": Score("Jaccard", column=False),
    "loss": Score("loss", share=False),
}


def columns() -> dict[str, str]:
    """Labels of the scores that have a column, by name."""
    return {name: score.label for name, score in SCORES.items() if score.column}


def label(score: str) -> str:
    """What people read in place of a score's name; the name itself for a score that a later version added."""
    return SCORES[score].label if score in SCORES else score


def in_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table, with its `scores` as columns of their own. A score that it lacks is None."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        found |= {score: value.get(score) for score in columns()} if name == "scores" else {name: value}
    return found


class ScoreOf(Generic[S]):
    """Reads a score as an attribute of a row: `row.macro_f1` is `row.scores["macro_f1"]`."""

    def __set_name__(self, row: type, name: str) -> None:
        self.name = name

    def __get__(self, row: Any, kind: type | None = None) -> S:
        return cast(S, row.scores.get(self.name))

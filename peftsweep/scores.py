"""Which scores are there, and what are they called? (task/metrics.py computes them.)"""

from __future__ import annotations

from typing import Literal, NamedTuple

Objective = Literal["macro_f1", "macro_f1_tuned"]
"""The scores that a search can maximise."""


class Score(NamedTuple):
    """How a score is shown, and what it can be.

    Attributes:
        label: its name in tables, lines and pages.
        share: whether it lies between 0 and 1.
        required: whether every complete trial has it.
        column: whether tables of studies have a column for it.
    """

    label: str
    share: bool = True
    required: bool = False
    column: bool = True


SCORES = {
    "macro_f1": Score("macro-F1", required=True),
    "macro_f1_tuned": Score("tuned macro-F1"),  # with a threshold of its own for each label
    "micro_f1": Score("micro-F1", required=True),
    "accuracy": Score("accuracy", required=True),
    "jaccard": Score("Jaccard", column=False),
    "loss": Score("loss", share=False, required=True),
}


COLUMNS = {name: score.label for name, score in SCORES.items() if score.column}


def label(score: str) -> str:
    """What people read in place of a score's name; the name itself for a score that a later version added."""
    return SCORES[score].label if score in SCORES else score

"""What is told of a study and its trials, as plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftsweep.errors import TrackingError


class NonsenseError(TrackingError):
    """MLflow answered, with something that cannot be the answer."""


def is_id(text: object) -> bool:
    """Whether it could be an id of MLflow's: a word, as it is part of addresses."""
    return isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,128}", text) is not None


# By its status alone a pruned run looks like one that failed, and MLflow's table does not show tags at first: `named`
# says what it is.
STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "interrupted": "KILLED"}


@dataclass(frozen=True)
class Outcome:
    """How a trial or a study ended.

    Attributes:
        state: "complete", "pruned", "failed" or "interrupted".
        artifacts: a file or a folder by its place in the run.
    """

    state: str
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    artifacts: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Parent:
    """The study's own run.

    Attributes:
        known: `Tracker.run_ids` of an earlier process; those that the store does not have any more are made anew.
        began: in milliseconds since 1970; now, where it is not given. A run that is there keeps its own.
    """

    name: str
    experiment: str
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    known: Mapping[str, str] = field(default_factory=dict)
    began: int | None = None


@dataclass(frozen=True)
class Point:
    """One evaluation: a point of each metric's curve.

    Attributes:
        at: milliseconds since 1970; None where it is not known.
    """

    metrics: Mapping[str, float]
    step: int
    at: int | None = None


@dataclass(frozen=True)
class Past:
    """A trial as the study holds it: all that its run is to have.

    Attributes:
        name: of its run.
        outcome: "interrupted" for a trial that goes on.
        began, ended: in milliseconds since 1970; None where it is not known.
    """

    params: Mapping[str, Any]
    tags: Mapping[str, str]
    curve: Sequence[Point]
    outcome: Outcome
    began: int | None = None
    ended: int | None = None
    name: str = ""


def named(name: str, state: str) -> str:
    """What the run of a trial in this state is called."""
    return f"{name} pruned" if state == "pruned" else name

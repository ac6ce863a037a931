"""What is told of a study and its trials, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
        outcome: "interrupted" for a trial that goes on.
        began, ended: in milliseconds since 1970; None where it is not known.
    """

    params: Mapping[str, Any]
    tags: Mapping[str, str]
    curve: Sequence[Point]
    outcome: Outcome
    began: int | None = None
    ended: int | None = None

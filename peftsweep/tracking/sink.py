"""What is a tracker? A sink that gets a study and its trials, as plain values. MLflow is one of them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from peftsweep.errors import TrackingError
from peftsweep.trial_state import TrialState

KEY = "peftsweep.study_key"  # tag of a study's own run; finds the run when its id was never stored
RETRAIN_OF = "peftsweep.retrain_of"  # tag of a run of seeds: the key of the study that it is nested under
PARENT = "parent"  # stands for the study's own run where trials' runs go by their number
COMPARISON = "comparison.html"  # the page that compares all studies
SELECTION = "selection.html"  # the page that compares selected studies: the last selection


class BadAnswerError(TrackingError):
    """The tracker gave an answer that does not fit the request."""


def is_valid_id(text: object) -> bool:
    """Whether this could be a run's id. Ids become part of URLs."""
    return isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,128}", text) is not None


@dataclass(frozen=True)
class Outcome:
    """How a trial or a study ended.

    Attributes:
        state: how it ended; `STOPPED` if the next run continues it.
        artifacts: files and folders, by their path in the run.
    """

    state: TrialState
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    artifacts: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class StudySnapshot:
    """What the tracker should show of a study.

    Attributes:
        data: name of its data. Studies of the same data belong together: MLflow has an experiment for each.
        known: run ids that an earlier process stored (`Tracker.run_ids`). Runs that no longer exist are made again.
        began: milliseconds since 1970; by default now. An existing run keeps its own start.
    """

    name: str
    data: str
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    known: Mapping[str, str] = field(default_factory=dict)
    began: int | None = None


@dataclass(frozen=True)
class Point:
    """One evaluation: a point on each metric's curve.

    Attributes:
        at: milliseconds since 1970; None if unknown.
    """

    metrics: Mapping[str, float]
    step: int
    at: int | None = None


@dataclass(frozen=True)
class TrialSnapshot:
    """What the tracker should show of a trial.

    Attributes:
        outcome: `STOPPED` for a trial that will be continued.
        began, ended: milliseconds since 1970; None if unknown.
        name: of the trial's run.
    """

    params: Mapping[str, Any]
    tags: Mapping[str, str]
    curve: Sequence[Point]
    outcome: Outcome
    began: int | None = None
    ended: int | None = None
    name: str = ""


class Sink(Protocol):
    """What a tracker must be able to do. Calls may block and raise.

    Every call may be repeated after it failed half-way: what is there already is found, not made twice. `key` is
    `PARENT`, or a trial's number; times (`at`) are milliseconds since 1970.

    Attributes:
        name: of the tracker, for messages.
        address: of the tracker, for messages; without passwords.
        ids: run ids by key, as far as they are known.
        asked: when the tracker was last called, by the monotonic clock; infinite while a file is being uploaded.
        abandoned: if set, no more calls are made, even in the middle of an update.
    """

    name: str
    address: str
    ids: dict[str, str]
    asked: float
    abandoned: bool

    def open(self, study: StudySnapshot, at: int) -> None:
        """Start the study's own run, or continue it."""

    def start(self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str], at: int) -> None:
        """Start a trial's run, or continue it."""

    def log(self, key: str, points: Sequence[Point]) -> None:
        """Add points to the curves of a run, unless their steps are there. Each point has its time."""

    def end(self, key: str, outcome: Outcome, at: int) -> None:
        """End a run."""

    def catch_up(self, number: int, trial: TrialSnapshot, at: int, whole: bool = False) -> None:
        """Write what an earlier process did not write of a trial.

        Args:
            whole: check every point and artifact, even if the run ended as it should.
        """

    def has_all(self, study: StudySnapshot, outcome: Outcome, trials: Mapping[int, TrialSnapshot]) -> bool:
        """Whether everything that `open`, `catch_up` and `end` would write is there. Writes nothing."""

    def store_page(self, data: str, page: Path, at: int) -> None:
        """Store a page that compares the studies of this data, drawn at this time. It replaces one of the same name."""

    def has_page(self, data: str, name: str, at: int) -> bool:
        """Whether a page of this name is stored that is not older than this time. Writes nothing."""

    def counts(self) -> tuple[int, int]:
        """Number of runs made, and of existing runs that were updated."""

    def end_all(self) -> None:
        """End every run that this process started and did not end."""

    def ping(self) -> None:
        """Raise an exception if the tracker does not answer."""

    def is_final(self, error: BaseException) -> bool:
        """Whether the tracker answered with this error, and would answer the same the next time."""

    def quiet(self) -> AbstractContextManager[None]:
        """Silence the tracker's own loggers."""


OpenSink = Callable[[str], Sink]  # takes the address of the tracker; raises `UsageError` if it cannot be one


def now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)

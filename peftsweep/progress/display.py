"""What does a sweep report while it runs? `Progress` is the interface of everything that displays it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from peftsweep.progress.stages import Stage
from peftsweep.sweep_state import SweepState
from peftsweep.trial_state import Ended

if TYPE_CHECKING:  # the engine brings torch along, and `peftsweep best` draws tables without it
    from peftsweep.engine import SlotStatus
    from peftsweep.workers import Memory


@dataclass(frozen=True)
class Opened:
    """What a sweep has loaded when it begins."""

    study: str
    model: str
    method: str
    parameters: int  # of the base
    trainable: tuple[int, int]  # fewest and most parameters that a trial may train
    slots: int
    rows: Mapping[str, int]  # by split
    device: str
    dtype: str
    done: int  # trials that have ended
    total: int  # number of trials of the study
    storage: str
    tracker: str  # its name
    tracking: str  # its address
    objective: str = "macro_f1"  # score by which trials are compared
    memory: Memory | None = None  # None on a CPU, where nothing is planned
    alone: bool = True  # whether slots, device and memory are those of the whole sweep, or of its first worker


@dataclass(frozen=True)
class WorkerStatus:
    """A worker and its slots, as it last reported them."""

    number: int
    node: str | None  # name of the machine; None: this process
    device: str
    slots: Sequence[SlotStatus]

    @property
    def running(self) -> list[SlotStatus]:
        """Slots with a trial."""
        return [slot for slot in self.slots if slot.trial is not None]

    @property
    def rate(self) -> float:
        """Samples per second."""
        return sum(slot.rate for slot in self.running)


@dataclass(frozen=True)
class SweepStatus:
    """Where a running study stands."""

    workers: Sequence[WorkerStatus]
    done: int  # trials that have ended
    total: int  # number of trials of the study
    best: tuple[int, float] | None  # number and score (by the objective) of the best trial, including earlier runs
    eta: float | None  # seconds left, or None if they cannot be estimated yet
    study: str = ""  # its name, if several studies run at once

    @property
    def running(self) -> list[SlotStatus]:
        """Slots with a trial, of all workers."""
        return [slot for worker in self.workers for slot in worker.running]


@dataclass(frozen=True)
class EndedTrial:
    """A trial that has ended."""

    number: int
    state: Ended
    value: float | None  # score of its best evaluation by the objective; None if it had no evaluation
    reason: str
    params: Mapping[str, Any]  # hyperparameters that the search chose
    seconds: float
    study: str = ""  # its study's name, if several studies run at once


class Progress:
    """A display, used as a context manager while trials run. Notes and warnings may come before and after. This one
    ignores all that it is given."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.closed()

    def stage(self, stage: Stage, what: str = "", study: str = "") -> None:
        """Something begins that takes a while. See `stage_line`."""

    def opened(self, what: Opened) -> None:
        """The base and the data are loaded; trials start."""

    def note(self, text: str) -> None:
        """Report something that needs no action."""

    def warn(self, text: str) -> None:
        """Report something that the user may want to change."""

    def step(self, status: SweepStatus) -> None:
        """Called about once a second for each study. Training waits meanwhile, so it must take hardly any time."""

    def ended(self, trial: EndedTrial) -> None:
        """A trial has ended."""

    def left(self, state: SweepState, study: str = "") -> None:
        """A study's sweep has ended; others may go on.

        Args:
            study: its name, if several studies run at once.
        """

    def closed(self) -> None:
        """No more trials will run. May be called twice."""


class Silent(Progress):
    """Displays nothing."""


class OneOfSeveral(Progress):
    """What one of several studies reports, on the display that they share. All of it has the study's name."""

    def __init__(self, display: Progress, study: str) -> None:
        self._display, self._study = display, study

    def stage(self, stage: Stage, what: str = "", study: str = "") -> None:
        self._display.stage(stage, what, self._study)

    def opened(self, what: Opened) -> None:
        self._display.opened(what)

    def note(self, text: str) -> None:
        self._display.note(f"{self._study}: {text}")

    def warn(self, text: str) -> None:
        self._display.warn(f"{self._study}: {text}")

    def step(self, status: SweepStatus) -> None:
        self._display.step(replace(status, study=self._study))

    def ended(self, trial: EndedTrial) -> None:
        self._display.ended(replace(trial, study=self._study))

    def left(self, state: SweepState, study: str = "") -> None:
        self._display.left(state, self._study)

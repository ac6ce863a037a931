"""Who answers a worker's events? A judge. `drive` is the loop in which it talks with a single worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from peftsweep.engine import (
    Command,
    Evaluated,
    Event,
    Idle,
    Note,
    Progressed,
    Report,
    Result,
    Scored,
    Scores,
    StartTrials,
    Stop,
    Trial,
    TrialEnded,
    TrialsWanted,
    Verdicts,
)


class Advances(Protocol):
    """A worker, in this process or another."""

    def advance(self, commands: Sequence[Command], /) -> list[Event]: ...


class Judge(ABC):
    """Provides trials, decides which of them go on, and stores their results."""

    def answer(self, events: Sequence[Event], worker: int = 0) -> list[Command]:
        """Answer events with commands. There are none if the worker is idle and has nothing left to do.

        Args:
            worker: which worker posted the events.
        """
        commands: list[Command] = []
        for event in events:
            match event:
                case Note(text):
                    self.note(text)
                case Progressed():
                    self.progressed(event, worker)
                case Evaluated(reports):
                    commands.append(Verdicts(tuple(self.report(reports))))
                case TrialEnded(trial, result):
                    self.finish(trial, result)
                case TrialsWanted(slots):
                    given = [each for _ in range(slots) if (each := self.next(worker)) is not None]
                    commands.append(StartTrials(tuple(given), more=not self.has_given_all(worker)))
                case Scored(number, scores, reason):
                    self.scored(number, scores, reason)
                case Idle():
                    commands += self.more_work()
        return [*commands, Stop()] if self.wants_stop() and Idle() not in events else commands

    @abstractmethod
    def next(self, worker: int) -> Trial | None:
        """The next trial for a worker's free slot, or None if there is none at the moment."""

    def has_given_all(self, worker: int) -> bool:
        """Whether there will be no more trials for this worker, so that its free slots need not ask again."""
        return False

    @abstractmethod
    def report(self, reports: Sequence[Report]) -> Sequence[bool]:
        """Decide on all evaluations after one step: whether the i-th trial goes on."""

    @abstractmethod
    def finish(self, trial: Trial, result: Result) -> None:
        """Store the result of a trial that has ended."""

    def progressed(self, event: Progressed, worker: int) -> None:
        """Report the progress of some of a worker's steps."""
        return

    def note(self, text: str) -> None:
        """Show a line to the user."""
        return

    def scored(self, number: int, scores: Scores | None, reason: str) -> None:
        """Store a trial's scores on the test split, or say why there are none."""
        return

    def more_work(self) -> list[Command]:
        """Further commands for an idle worker."""
        return []

    def wants_stop(self) -> bool:
        """Whether the worker must stop. It learns so with the next answer, at most a second later."""
        return False


def drive(worker: Advances, judge: Judge) -> None:
    """Wait for events, let the study judge, answer; until the worker is idle and the study has nothing left for it."""
    events = worker.advance([])
    while (commands := judge.answer(events)) or Idle() not in events:
        events = worker.advance(commands)

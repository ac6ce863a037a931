"""The study's half of the door: who answers a worker's events, and the loop that lets both talk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from peftsweep.engine.messages import (
    Command,
    Evaluated,
    Event,
    Idle,
    Note,
    Progress,
    Scored,
    StartTrials,
    Stop,
    TrialEnded,
    TrialsWanted,
    Verdicts,
)
from peftsweep.engine.trial import Report, Result, Scores, Trial


class Advances(Protocol):
    """A pack, or a worker that has one."""

    def advance(self, commands: Sequence[Command], /) -> list[Event]: ...


class Judge(ABC):
    """Gives trials, says which of them go on, and keeps what comes of them."""

    def answer(self, events: Sequence[Event]) -> list[Command]:
        """The commands that follow from some events; none when the worker is idle and is to stay so."""
        commands: list[Command] = []
        for event in events:
            match event:
                case Note(text):
                    self.note(text)
                case Progress():
                    self.progressed(event)
                case Evaluated(reports):
                    commands.append(Verdicts(tuple(self.report(reports))))
                case TrialEnded(trial, result):
                    self.finish(trial, result)
                case TrialsWanted(slots):
                    given = [each for _ in range(slots) if (each := self.next()) is not None]
                    commands.append(StartTrials(tuple(given), more=not self.has_given_all()))
                case Scored(number, scores):
                    self.scored(number, scores)
                case Idle():
                    commands += self.more_work()
        return [*commands, Stop()] if self.wants_stop() and Idle() not in events else commands

    @abstractmethod
    def next(self) -> Trial | None:
        """The next trial for a free slot; None when there is none now."""

    def has_given_all(self) -> bool:
        """Whether a free slot need not ask for a trial again."""
        return False

    @abstractmethod
    def report(self, reports: Sequence[Report]) -> Sequence[bool]:
        """Evaluations of all the slots that came to one in the same step; True at i keeps the i-th trial."""

    @abstractmethod
    def finish(self, trial: Trial, result: Result) -> None:
        """A trial has left its slot."""

    def progressed(self, event: Progress) -> None:
        """Some steps were taken."""
        return

    def note(self, text: str) -> None:
        """A line that a person should read."""
        return

    def scored(self, number: int, scores: Scores) -> None:
        """A trial's scores on the test split."""
        return

    def more_work(self) -> list[Command]:
        """What an idle worker is to do."""
        return []

    def wants_stop(self) -> bool:
        """Whether the worker is to stop after the step under way."""
        return False


def drive(worker: Advances, judge: Judge) -> None:
    """Wait for events, let the study judge, answer; until the worker is idle and the study has nothing more for it."""
    events = worker.advance([])
    while (commands := judge.answer(events)) or Idle() not in events:
        events = worker.advance(commands)

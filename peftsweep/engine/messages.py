"""What a worker and a study say to each other: plain values that can be pickled, and the only door between the two.

A worker posts events; the study answers with commands. Nothing else passes between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peftsweep.engine.trial import Report, Result, Scores, SlotStatus, Trial


# Events: from the worker to the study.
@dataclass(frozen=True)
class TrialsWanted:
    """So many slots are free. Answer: `StartTrials`."""

    slots: int


@dataclass(frozen=True)
class Evaluated:
    """The evaluations of all slots that came to one in the same step. Answer: `Verdicts`."""

    reports: tuple[Report, ...]


@dataclass(frozen=True)
class TrialEnded:
    """A trial has left its slot."""

    trial: Trial
    result: Result


@dataclass(frozen=True)
class Scored:
    """The answer to `ScoreTrial`."""

    trial: int
    scores: Scores


@dataclass(frozen=True)
class Note:
    """A line that a person should read."""

    text: str


@dataclass(frozen=True)
class StepTime:
    """What one step took, with all that followed from it."""

    seconds: float
    trials: int  # that took it
    evaluations: int  # that followed it


@dataclass(frozen=True)
class Progress:
    """The slots as they are, and the steps since the last such event."""

    slots: tuple[SlotStatus, ...]
    steps: tuple[StepTime, ...]


@dataclass(frozen=True)
class Idle:
    """No slot trains any more: the study has no trial left to give, or has sent `Stop`."""


Event = TrialsWanted | Evaluated | TrialEnded | Scored | Note | Progress | Idle


class Outbox:
    """Events that wait to be sent."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def post(self, event: Event) -> None:
        self.events.append(event)

    def note(self, text: str) -> None:
        self.post(Note(text))

    def drain(self) -> list[Event]:
        """All of them; none is left."""
        events, self.events = self.events, []
        return events


# Commands: from the study to the worker.
@dataclass(frozen=True)
class StartTrials:
    """Trials for free slots, at most as many as there are."""

    trials: tuple[Trial, ...]
    more: bool = True  # whether to ask again while a slot is free


@dataclass(frozen=True)
class Verdicts:
    """The answer to `Evaluated`: `keep[i]` says whether the trial of the i-th report goes on."""

    keep: tuple[bool, ...]


@dataclass(frozen=True)
class SaveCheckpoints:
    """Save a checkpoint of every slot now."""


@dataclass(frozen=True)
class Stop:
    """Save a checkpoint of every slot and train no further."""


@dataclass(frozen=True)
class ScoreTrial:
    """Score a trial that has ended on the test split, by the adapter in a folder. It takes a free slot. Answer:
    `Scored`."""

    trial: Trial
    adapter: Path


Command = StartTrials | Verdicts | SaveCheckpoints | Stop | ScoreTrial

"""What do a worker and a study say to each other? A worker posts events, and the study answers with commands.

All are plain values that can be pickled. Adapters and logits travel in them as bytes. Only checkpoints do not: a worker
keeps them in the trials' folders, which the study removes if it sees them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from peftsweep.engine.trial import Report, Result, Scores, SlotStatus, Trial


# Events: from the worker to the study.
@dataclass(frozen=True)
class TrialsWanted:
    """`slots` slots are free. Answer: `StartTrials`."""

    slots: int


@dataclass(frozen=True)
class Evaluated:
    """All evaluations after one step. Answer: `Verdicts`."""

    reports: tuple[Report, ...]


@dataclass(frozen=True)
class TrialEnded:
    """A trial has left its slot."""

    trial: Trial
    result: Result


@dataclass(frozen=True)
class Scored:
    """The answer to `ScoreTrial`. `scores` is None if the trial does not fit into memory even alone."""

    trial: int
    scores: Scores | None
    reason: str = ""  # why there are no scores


@dataclass(frozen=True)
class Note:
    """A line that a person should read."""

    text: str


@dataclass(frozen=True)
class StepTime:
    """Time from the beginning of a step to that of the next: its evaluations, and what the study did after it."""

    seconds: float
    samples: int  # texts in the batches of the trials that took the step
    evaluations: int  # evaluations after it


@dataclass(frozen=True)
class Progressed:
    """The status of all slots, and the steps since the last such event."""

    slots: tuple[SlotStatus, ...]
    steps: tuple[StepTime, ...]


@dataclass(frozen=True)
class Idle:
    """No slot trains any more: the study has no trials left, or has sent `Stop`."""


Event = TrialsWanted | Evaluated | TrialEnded | Scored | Note | Progressed | Idle


# Commands: from the study to the worker.
@dataclass(frozen=True)
class StartTrials:
    """Start trials in free slots. There are at most as many trials as free slots."""

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
class EndTrial:
    """End a trial as pruned, unless it has ended. Answer: `TrialEnded`, with the reason and the step."""

    trial: int
    reason: str


@dataclass(frozen=True)
class ScoreTrial:
    """Score an ended trial on the test split, with its adapter. This takes a free slot. Answer: `Scored`."""

    trial: Trial
    adapter: Mapping[str, bytes]  # the files of the adapter's folder, by name


Command = StartTrials | Verdicts | SaveCheckpoints | Stop | EndTrial | ScoreTrial

"""The pack: K trials train at once on one frozen base. Torch only: no study, database or tracker is known here."""

from __future__ import annotations

from peftsweep.engine.capacity import CEILING, Plan, build_that_fits, capped, in_equal_turns, plan
from peftsweep.engine.checkpoints import CHECKPOINT_EVERY
from peftsweep.engine.evaluation import Examples
from peftsweep.engine.leaders import Leaders
from peftsweep.engine.limits import Limits
from peftsweep.engine.messages import (
    Command,
    EndTrial,
    Evaluated,
    Event,
    Idle,
    Note,
    Progressed,
    SaveCheckpoints,
    Scored,
    ScoreTrial,
    StartTrials,
    StepTime,
    Stop,
    TrialEnded,
    TrialsWanted,
    Verdicts,
)
from peftsweep.engine.oom import UNFIT
from peftsweep.engine.pack import Pack
from peftsweep.engine.pack_worker import PackWorker
from peftsweep.engine.trial import Evaluation, Report, Result, Scores, SlotStatus, Trial

__all__ = [
    "CEILING",
    "CHECKPOINT_EVERY",
    "UNFIT",
    "Command",
    "EndTrial",
    "Evaluated",
    "Evaluation",
    "Event",
    "Examples",
    "Idle",
    "Leaders",
    "Limits",
    "Note",
    "Pack",
    "PackWorker",
    "Plan",
    "Progressed",
    "Report",
    "Result",
    "SaveCheckpoints",
    "ScoreTrial",
    "Scored",
    "Scores",
    "SlotStatus",
    "StartTrials",
    "StepTime",
    "Stop",
    "Trial",
    "TrialEnded",
    "TrialsWanted",
    "Verdicts",
    "build_that_fits",
    "capped",
    "in_equal_turns",
    "plan",
]

"""The pack: K trials at once on one frozen base. Torch only; it knows nothing of studies, databases or trackers."""

from __future__ import annotations

from peftsweep.engine.limits import Limits
from peftsweep.engine.memory import CEILING, Plan, build_that_fits, capped, plan
from peftsweep.engine.pack import Examples, Pack
from peftsweep.engine.trial import Evaluation, Report, Result, Scores, SlotStatus, Trial, TrialSource

__all__ = [
    "CEILING",
    "Evaluation",
    "Examples",
    "Limits",
    "Pack",
    "Plan",
    "Report",
    "Result",
    "Scores",
    "SlotStatus",
    "Trial",
    "TrialSource",
    "build_that_fits",
    "capped",
    "plan",
]

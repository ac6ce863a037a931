"""The pack: K trials at once on one frozen base. Torch only; it knows nothing of studies, databases or trackers."""

from __future__ import annotations

from peftsweep.engine.memory import build_that_fits, slots_that_fit
from peftsweep.engine.pack import Examples, Limits, Pack
from peftsweep.engine.trial import Evaluation, Report, Result, Scores, SlotStatus, Trial, TrialSource

__all__ = [
    "Evaluation",
    "Examples",
    "Limits",
    "Pack",
    "Report",
    "Result",
    "Scores",
    "SlotStatus",
    "Trial",
    "TrialSource",
    "build_that_fits",
    "slots_that_fit",
]

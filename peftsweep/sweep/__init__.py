"""The sweep: a study's trials, trained by workers and resumable at any moment. `peftsweep run` calls `run`."""

from __future__ import annotations

from peftsweep.sweep.publishing import ComparisonPage, compare
from peftsweep.sweep.retraining import RetrainResult, retrain
from peftsweep.sweep.run_study import SweepResult, run, run_together
from peftsweep.sweep.syncing import sync

__all__ = ["ComparisonPage", "RetrainResult", "SweepResult", "compare", "retrain", "run", "run_together", "sync"]

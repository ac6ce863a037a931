"""The sweep: Optuna's trials through a pack, resumable at any moment. `run` is what `peftsweep run` calls."""

from __future__ import annotations

from peftsweep.sweep.publishing import Compared, compare
from peftsweep.sweep.retraining import RetrainResult, retrain
from peftsweep.sweep.run_study import SweepResult, run
from peftsweep.sweep.syncing import sync

__all__ = ["Compared", "RetrainResult", "SweepResult", "compare", "retrain", "run", "sync"]

"""The sweep: Optuna's trials through a pack, resumable at any moment. `run` is what `peftsweep run` calls."""

from __future__ import annotations

from peftsweep.sweep.running import SweepResult, run

__all__ = ["SweepResult", "run"]

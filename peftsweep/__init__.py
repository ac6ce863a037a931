"""Hyperparameter sweeps of parameter-efficient fine-tuning, dozens of trials on one frozen base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftsweep.study.best_rows import best
    from peftsweep.study.status_rows import status
    from peftsweep.sweep import retrain, run

__version__ = "0.1.0"
__all__ = ["__version__", "best", "retrain", "run", "status"]


def __getattr__(name: str) -> Any:
    """Import what is asked for, not before: torch and its friends take seconds, `peftsweep --help` should not."""
    if name in ("retrain", "run"):
        from peftsweep import sweep

        return getattr(sweep, name)
    if name == "best":
        from peftsweep.study.best_rows import best

        return best
    if name == "status":
        from peftsweep.study.status_rows import status

        return status
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

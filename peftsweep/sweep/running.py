"""Which worker trains which trial, and where?"""

from __future__ import annotations

from typing import NamedTuple

import optuna

from peftsweep.engine import Trial


class Place(NamedTuple):
    """Where a worker trains, and how many trials at once."""

    node: str | None  # None: this process
    device: str
    slots: int

    @property
    def name(self) -> str:
        """Device and machine."""
        return self.device if self.node is None else f"{self.device} of {self.node}"


class Running(NamedTuple):
    """A trial that a worker trains."""

    asked: optuna.Trial
    trial: Trial
    worker: int

"""What has `peftsweep stop` asked of a sweep? To end it, or to end some of its trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from peftsweep.engine import EndTrial
from peftsweep.storage import StopRequest
from peftsweep.sweep.running import Running

COMMAND = "peftsweep stop"


class StopRequests:
    """
    Args:
        note: called with a line for the user.

    Attributes:
        by: who asked to end the sweep; empty if nobody did.
    """

    def __init__(self, note: Callable[[str], object]) -> None:
        self._note, self.by = note, ""
        self._trials: dict[int, str] = {}  # trials that are to end, and why

    def add(self, request: StopRequest) -> None:
        """The same one may come several times."""
        if request.trial is None:
            if not self.by:
                self.by = f"{COMMAND} ({request.by})"
                self._note(f"{self.by}: the workers finish their steps and save checkpoints")
        else:
            self._trials[request.trial] = f"stopped by {COMMAND}"

    def why(self, trial: int) -> str | None:
        """Why a trial that no worker trains is to end; None if it is not."""
        return self._trials.get(trial)

    def commands(self, worker: int, running: Mapping[int, Running]) -> list[EndTrial]:
        """Commands to a worker that end its trials."""
        mine = [number for number in self._trials if number in running and running[number].worker == worker]
        return [EndTrial(number, self._trials[number]) for number in mine]

"""Which complete trials keep their adapter on disk? The best of those that have one."""

from __future__ import annotations

from collections.abc import Iterable, Set
from pathlib import Path

from peftsweep.storage import TrialRecord
from peftsweep.study import artifacts
from peftsweep.study.trial_files import ADAPTER, trial_folder
from peftsweep.trial_state import TrialState


class KeptAdapters:
    """A trial without an adapter takes no place among the kept: nobody wrote one while fewer were kept, or somebody has
    deleted it.

    Args:
        folder: of the study's artifacts.
        most: how many are kept. None: all.
        finished: the trials that have ended, with or without an adapter.
    """

    def __init__(self, folder: Path, most: int | None, finished: Iterable[TrialRecord]) -> None:
        self._folder, self.most = folder, most
        self._values = {trial.number: trial.value or 0.0 for trial in finished if trial.state == TrialState.COMPLETE}

    def keeps(self, number: int, value: float) -> bool:
        """Whether a trial that completes with this value is among the best."""
        self._forget_deleted()
        better = sum((-other, at) < (-value, number) for at, other in self._values.items())
        return self.most is None or better < self.most

    def add(self, number: int, value: float) -> None:
        """A trial's adapter has been written."""
        self._values[number] = value

    def tidy(self) -> None:
        """Remove all but the best."""
        self._forget_deleted()
        ranked = sorted(self._values, key=lambda number: (-self._values[number], number))
        self.keep(set(ranked[: self.most]))

    def keep(self, numbers: Set[int]) -> None:
        """Remove all others."""
        artifacts.remove_adapters(self._folder, self._values.keys() - numbers)
        self._values = {number: value for number, value in self._values.items() if number in numbers}

    def _forget_deleted(self) -> None:
        self._values = {
            number: value
            for number, value in self._values.items()
            if (trial_folder(self._folder, number) / ADAPTER).is_dir()
        }

"""Which trial kills its workers? A worker that dies takes all its trials along, and most of them are innocent."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

DEATHS = 3  # workers that may be lost while they train a trial, between two of its evaluations, before it fails


class Suspects:
    """Trials that were lost with a worker are suspects until they reach a further evaluation.

    They are resumed in smaller groups. After the first loss of n trials, a worker gets about √n of them at a time, and
    after the second, one; more follow when these have reached an evaluation. After the third, a trial has its worker to
    itself. One that is lost alone, and at least for the third time, is guilty. The others lose little time, and since
    each trial has so many evaluations, this ends.
    """

    def __init__(self) -> None:
        self._deaths: Counter[int] = Counter()  # by trial: workers lost since its last new evaluation
        self._group: dict[int, int] = {}  # of each suspect: how many newcomers its worker may have at a time
        self._newcomers: defaultdict[int, set[int]] = defaultdict(set)  # by worker: trials without a new evaluation
        self._proven: defaultdict[int, set[int]] = defaultdict(set)  # and its other trials

    def may_begin(self, worker: int, trial: int | None) -> bool:
        """Whether a worker may get a trial now. If it has none, it may get any.

        Args:
            trial: its number; None for a new one.
        """
        if not self._group:
            return True
        newcomers, proven = self._newcomers[worker], self._proven[worker]
        together = [each for each in (*newcomers, trial) if each is not None]
        if (newcomers or proven) and any(self._deaths[each] >= DEATHS for each in together):
            return False
        return len(newcomers) < min((self._group.get(each, math.inf) for each in together), default=math.inf)

    def begin(self, worker: int, trial: int) -> None:
        self._newcomers[worker].add(trial)

    def reach(self, worker: int, trial: int) -> None:
        """A trial has reached an evaluation for the first time."""
        self._newcomers[worker].discard(trial)
        self._proven[worker].add(trial)
        self._absolve(trial)

    def end(self, worker: int, trial: int) -> None:
        """A trial has ended."""
        self._newcomers[worker].discard(trial)
        self._proven[worker].discard(trial)
        self._absolve(trial)

    def _absolve(self, trial: int) -> None:
        self._deaths.pop(trial, None)
        self._group.pop(trial, None)

    def leave(self, worker: int) -> None:
        """Forget a worker."""
        self._newcomers.pop(worker, None)
        self._proven.pop(worker, None)

    def lose(self, trials: Sequence[int]) -> int | None:
        """A worker was lost with these trials. Returns the one that killed it, if that is known."""
        self._deaths.update(trials)
        if len(trials) == 1 and self._deaths[trials[0]] >= DEATHS:
            self._absolve(trials[0])
            return trials[0]
        group = math.isqrt(len(trials))
        self._group |= {trial: group if self._deaths[trial] == 1 else 1 for trial in trials}
        return None

"""Which trials are pruned: asynchronous successive halving for slots that run in step."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


class Rungs:
    """The scores that trials have reported at each evaluation. A score that is not finite counts as the lowest."""

    def __init__(self) -> None:
        self._scores: dict[int, list[float]] = {}

    def count(self, reported: Mapping[int, float], by: int) -> None:
        """Add a trial's scores (1), by the index of the evaluation, or take them out (-1)."""
        for index, score in reported.items():
            scores, score = self._scores.setdefault(index, []), score if math.isfinite(score) else -math.inf
            if by > 0:
                insort(scores, score)
            else:
                del scores[bisect_left(scores, score)]

    def at(self, index: int) -> Sequence[float]:
        """The scores at an evaluation, the lowest first."""
        return self._scores.get(index, ())


@dataclass(frozen=True)
class Halving:
    """Asynchronous successive halving (Li et al., 2020, https://arxiv.org/abs/1810.05934) for slots that run in step.

    The evaluations `min_evals · reductionⁱ` are rungs. At a rung, a trial is kept if its score is among the best
    `max(1, n // reduction)` of the n trials that have reached the rung so far; equal scores are kept together. Optuna's
    own pruner compares a trial with those that asked before it, so the order of calls would decide within a pack.

    Example:
        >>> list(Halving(reduction=3, min_evals=1).rungs(28))
        [1, 3, 9, 27]
    """

    reduction: int
    min_evals: int

    def rungs(self, end: int) -> Iterator[int]:
        """The evaluations before `end` at which trials are pruned, counted from 1."""
        rung = self.min_evals
        while rung < end:
            yield rung
            rung *= self.reduction

    def is_rung(self, index: int) -> bool:
        return index in self.rungs(index + 1)

    def decide(self, at: Mapping[int, tuple[int, float]], reported: Rungs) -> dict[int, bool]:
        """Which trials are kept.

        Args:
            at: trial number -> (index of its evaluation, objective), for all slots that were evaluated in this step
                and need a verdict.
            reported: the scores of all trials that have not failed, these included.

        Returns:
            True for each trial that is kept. A trial whose score is not finite is never kept.
        """
        rungs = {index for index, _ in at.values() if self.is_rung(index)}
        bars = {index: self._bar(reported.at(index)) for index in rungs}
        return {
            number: math.isfinite(score) and score >= bars.get(index, -math.inf)
            for number, (index, score) in at.items()
        }

    def _bar(self, scores: Sequence[float]) -> float:
        """The lowest score that passes a rung.

        Args:
            scores: the lowest first.
        """
        return scores[-max(1, len(scores) // self.reduction)] if scores else -math.inf

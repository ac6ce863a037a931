"""Which trials are pruned: asynchronous successive halving for slots that run in step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from optuna.study import Study
from optuna.trial import TrialState


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

    def decide(self, at: Mapping[int, tuple[int, float]], study: Study) -> dict[int, bool]:
        """Which trials are kept.

        Args:
            at: trial number -> (index of its evaluation, objective), for all slots that were evaluated in this step
                and need a verdict.
            study: their values have been reported to it already.

        Returns:
            True for each trial that is kept. A trial whose score is not finite is never kept.
        """
        rungs = {index for index, _ in at.values() if self.is_rung(index)}
        bars = {index: self._bar(index, study) for index in rungs}
        return {
            number: math.isfinite(score) and score >= bars.get(index, -math.inf)
            for number, (index, score) in at.items()
        }

    def _bar(self, index: int, study: Study) -> float:
        """The lowest score that passes the rung."""
        states = (TrialState.RUNNING, TrialState.PRUNED, TrialState.COMPLETE)
        trials = study.get_trials(deepcopy=False, states=states)
        reported = [t.intermediate_values[index] for t in trials if index in t.intermediate_values]
        scores = sorted((score if math.isfinite(score) else -math.inf for score in reported), reverse=True)
        return scores[max(1, len(scores) // self.reduction) - 1] if scores else -math.inf

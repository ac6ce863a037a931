"""Which ended trials may be among the best of their study? Only their weights are worth sending to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from peftsweep.engine.messages import Event, TrialEnded


class Leaders:
    """Takes the weights from results that a study would write no adapter for.

    Weights are nearly all of what a worker sends. A trial that is not among the best of its worker is not among the
    best of all, so the study need not be asked.
    If somebody deletes an adapter, only trials of the next run take its place: workers do not know that it is gone.

    Args:
        most: how many adapters the study keeps.
        objective: the score by which it ranks its trials.
    """

    def __init__(self, most: int, objective: str) -> None:
        self._most, self._objective = most, objective
        self._best: list[tuple[float, int]] = []

    def lightened(self, events: Sequence[Event]) -> list[Event]:
        """These events, with the weights of leading trials alone. All trials of one step end in the same events."""
        complete = [event for event in events if isinstance(event, TrialEnded) and event.result.weights is not None]
        self._best = sorted([*self._best, *map(self._rank, complete)])[: self._most]
        return [self._lightened(event) for event in events]

    def _rank(self, event: TrialEnded) -> tuple[float, int]:
        """Lower is better; of equal values, the lower number."""
        assert event.result.best is not None
        return -event.result.best.scores[self._objective], event.trial.number

    def _lightened(self, event: Event) -> Event:
        if not isinstance(event, TrialEnded) or event.result.weights is None or self._rank(event) in self._best:
            return event
        return replace(event, result=replace(event.result, weights=None))

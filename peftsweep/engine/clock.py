"""Where a pack's time goes: each moment is counted once, for the innermost thing under way."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from peftsweep.engine.trial import Report, Result, SlotStatus, Trial, TrialSource


class Clock:
    """Seconds by label: training, evaluation, checkpoints, source (whatever the trials' source does in the pack's
    thread: asking, telling, reporting, tracking)."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._label, self._since = "other", time.perf_counter()

    def _turn(self, label: str) -> str:
        now, before = time.perf_counter(), self._label
        self.seconds[before] += now - self._since
        self._label, self._since = label, now
        return before

    @contextmanager
    def at(self, label: str) -> Iterator[None]:
        before = self._turn(label)
        try:
            yield
        finally:
            self._turn(before)


class TimedSource:
    """A source whose calls are counted as `source`."""

    def __init__(self, source: TrialSource, clock: Clock) -> None:
        self.source, self.clock = source, clock

    def next(self) -> Trial | None:
        with self.clock.at("source"):
            return self.source.next()

    def report(self, reports: Sequence[Report]) -> Sequence[bool]:
        with self.clock.at("source"):
            return self.source.report(reports)

    def finish(self, trial: Trial, result: Result) -> None:
        with self.clock.at("source"):
            self.source.finish(trial, result)

    def stepped(self, slots: Sequence[SlotStatus], seconds: float) -> bool:
        with self.clock.at("source"):
            return self.source.stepped(slots, seconds)

"""Plain lines for a pipe, a file or CI."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TextIO

from peftsweep.progress import phrases
from peftsweep.progress.screen import fit
from peftsweep.progress.watcher import Opened
from peftsweep.system.terminal import say

if TYPE_CHECKING:
    from peftsweep.engine import SlotStatus

# The time between two lines about the state: so many seconds, or this part of the time so far if that is longer. NEWS
# is for when trials have begun or were evaluated, QUIET for when nothing has happened. A long sweep's lines are rare.
NEWS, QUIET, RAREST = (5.0, 1 / 50), (15.0, 1 / 10), 600.0


class PlainProgress:
    """A line with the time of day for each trial that ends and, every now and then, for the state of the sweep."""

    def __init__(
        self,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
        hour: Callable[[], str] = lambda: time.strftime("%H:%M:%S"),
    ) -> None:
        self._stream, self._clock, self._hour = stream, clock, hour
        self._began = self._said = clock()
        self._known: frozenset[tuple[int | None, int]] = frozenset()  # trials and their evaluations at the last line
        self._leader = phrases.Leader()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.closed()

    def opened(self, what: Opened) -> None:
        self._leader.objective = what.objective
        for name, text in phrases.header(what):
            self._print(f"{name + ':':<9}{text}")

    def note(self, text: str) -> None:
        self._print(text)

    def warn(self, text: str) -> None:
        self._print(f"warning: {text}")

    def step(
        self,
        slots: Sequence[SlotStatus],
        *,
        done: int,
        total: int,
        best: tuple[int, float] | None,
        eta: float | None,
    ) -> None:
        self._leader.sees(best)
        now, known = self._clock(), frozenset((slot.trial, slot.evaluated) for slot in slots if slot.trial is not None)
        least, part = NEWS if known - self._known else QUIET
        if now >= self._said + min(RAREST, max(least, part * (now - self._began))):
            self._said, self._known = now, known
            line = phrases.summary(slots, done, total, best, eta, self._leader.objective, phrases.steps(slots))
            self._print(f"{self._hour()} {line}")

    def ended(
        self, trial: int, state: str, value: float | None, reason: str, params: Mapping[str, Any], seconds: float
    ) -> None:
        is_best = self._leader.takes(state, value)
        objective = self._leader.objective
        line = phrases.ended(trial, state, value, reason, params, seconds, objective=objective, best=is_best)
        self._print(f"{self._hour()} {line}")

    def closed(self) -> None:
        pass

    def _print(self, line: str) -> None:
        say(fit(line), self._stream)

"""Plain lines for a pipe, a file or CI."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TextIO

from peftsweep.progress import wording
from peftsweep.progress.contract import Opened
from peftsweep.progress.screen import fit
from peftsweep.terminal import say

if TYPE_CHECKING:
    from peftsweep.engine import SlotStatus

EVERY = 15.0  # seconds between two lines about the state of things


class PlainProgress:
    """Each event is a line, and so is the state of things every quarter of a minute."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._next = clock() + EVERY
        self._leader = wording.Leader()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.closed()

    def opened(self, what: Opened) -> None:
        self._leader.objective = what.objective
        for name, text in wording.header(what):
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
        if self._clock() >= self._next:
            self._next = self._clock() + EVERY
            self._print(wording.summary(slots, done, total, best, eta, self._leader.objective))

    def ended(
        self, trial: int, state: str, value: float | None, reason: str, params: Mapping[str, Any], seconds: float
    ) -> None:
        is_best = self._leader.takes(state, value)
        objective = self._leader.objective
        self._print(wording.ended(trial, state, value, reason, params, seconds, objective=objective, best=is_best))

    def closed(self) -> None:
        pass

    def _print(self, line: str) -> None:
        say(fit(line), self._stream)

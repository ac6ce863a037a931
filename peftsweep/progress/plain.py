"""How is a running sweep shown in a pipe, a file or CI? By plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TextIO

from peftsweep.progress import sweep_lines
from peftsweep.progress.screen import fit
from peftsweep.progress.watcher import Opened
from peftsweep.system.terminal import say

if TYPE_CHECKING:
    from peftsweep.engine import SlotStatus

# Time between two lines about the state: so many seconds, or this share of the elapsed time if that is longer. NEWS
# applies when trials have started or were evaluated, QUIET when nothing has happened. Lines of a long sweep are rare.
NEWS, QUIET, LONGEST = (5.0, 1 / 50), (15.0, 1 / 10), 600.0


class PlainProgress:
    """Prints a line with the time of day when a trial ends and, from time to time, about the state of the sweep."""

    def __init__(
        self,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
        hour: Callable[[], str] = lambda: time.strftime("%H:%M:%S"),
    ) -> None:
        self._stream, self._clock, self._hour = stream, clock, hour
        self._began = self._said = clock()
        self._known: frozenset[tuple[int | None, int]] = frozenset()  # trials and their evaluations at the last line
        self._best = sweep_lines.BestSoFar()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.closed()

    def opened(self, what: Opened) -> None:
        self._best.objective = what.objective
        for name, text in sweep_lines.header(what):
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
        self._best.update(best)
        now, known = self._clock(), frozenset((slot.trial, slot.evaluated) for slot in slots if slot.trial is not None)
        least, part = NEWS if known - self._known else QUIET
        if now >= self._said + min(LONGEST, max(least, part * (now - self._began))):
            self._said, self._known = now, known
            line = sweep_lines.summary(slots, done, total, best, eta, self._best.objective, sweep_lines.steps(slots))
            self._print(f"{self._hour()} {line}")

    def ended(
        self, trial: int, state: str, value: float | None, reason: str, params: Mapping[str, Any], seconds: float
    ) -> None:
        is_best = self._best.is_beaten_by(state, value)
        objective = self._best.objective
        line = sweep_lines.ended(trial, state, value, reason, params, seconds, objective=objective, best=is_best)
        self._print(f"{self._hour()} {line}")

    def closed(self) -> None:
        pass

    def _print(self, line: str) -> None:
        say(fit(line), self._stream)

"""How is a running sweep shown in a pipe, a file or CI? By plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from peftsweep.progress import sweep_lines
from peftsweep.progress.display import EndedTrial, Opened, Progress, SweepStatus
from peftsweep.progress.screen import fit
from peftsweep.sweep_state import SweepState
from peftsweep.system.terminal import say

# Time between two lines about the state: so many seconds, or this share of the elapsed time if that is longer. NEWS
# applies when trials have started or were evaluated, QUIET when nothing has happened. Lines of a long sweep are rare.
NEWS, QUIET, LONGEST = (5.0, 1 / 50), (15.0, 1 / 10), 600.0


class PlainProgress(Progress):
    """Prints a line with the time of day when a trial ends and, from time to time, about the state of each study."""

    def __init__(
        self,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
        hour: Callable[[], str] = lambda: time.strftime("%H:%M:%S"),
    ) -> None:
        self._stream, self._clock, self._hour = stream, clock, hour
        self._began = clock()
        self._said: dict[str, float] = {}  # when the last line about each study was printed
        self._known: dict[str, frozenset[tuple[int | None, int]]] = {}  # trials and their evaluations at that line
        self._best = sweep_lines.BestSoFar()

    def opened(self, what: Opened) -> None:
        self._best.open(what)
        for name, text in sweep_lines.header(what):
            self._print(f"{name + ':':<9}{text}")

    def note(self, text: str) -> None:
        self._print(text)

    def warn(self, text: str) -> None:
        self._print(f"warning: {text}")

    def step(self, status: SweepStatus) -> None:
        self._best.update(status)
        study, now = status.study, self._clock()
        known = frozenset((slot.trial, slot.evaluated) for slot in status.running)
        least, part = NEWS if known - self._known.get(study, frozenset()) else QUIET
        if now >= self._said.get(study, self._began) + min(LONGEST, max(least, part * (now - self._began))):
            self._said[study], self._known[study] = now, known
            line = sweep_lines.summary(status, self._best.objective(study), sweep_lines.steps(status.running))
            self._print(f"{self._hour()} {line}")

    def ended(self, trial: EndedTrial) -> None:
        is_best = self._best.is_beaten_by(trial)
        line = sweep_lines.ended(trial, objective=self._best.objective(trial.study), best=is_best)
        self._print(f"{self._hour()} {line}")

    def left(self, state: SweepState, study: str = "") -> None:
        if study:
            self._print(f"{self._hour()} {study}: {state}")

    def _print(self, line: str) -> None:
        say(fit(line), self._stream)

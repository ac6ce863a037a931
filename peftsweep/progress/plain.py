"""How is a running sweep shown in a pipe, a file or CI? By plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from peftsweep.progress import sweep_lines
from peftsweep.progress.display import EndedTrial, Opened, Progress, SweepStatus
from peftsweep.progress.screen import fit
from peftsweep.progress.stages import Stage, stage_line
from peftsweep.sweep_state import SweepState
from peftsweep.system.terminal import say

MINUTE = 60.0  # least seconds between two lines about a study's state: they are written when there is news
SILENCE = 600.0  # most seconds between two, also without news


@dataclass(frozen=True)
class Said:
    """What a line said about the state of a study.

    Attributes:
        at: when it was printed.
        evaluated: the running trials, each with the number of its evaluations.
        done: number of trials that had ended. A trial that ends by its evaluation no longer shows it.
        over: whether all trials had ended.
        early: whether it could not tell the time left yet. Then the next line need not wait for its minute.
    """

    at: float
    evaluated: frozenset[tuple[int | None, int]]
    done: int
    over: bool
    early: bool

    def is_followed_by(self, line: Said) -> bool:
        """Whether to print the next line now."""
        if line.over and not self.over:
            return True
        news = line.done > self.done or bool(line.evaluated - self.evaluated)
        return line.at >= self.at + (SILENCE if not news else 0.0 if self.early else MINUTE)


class PlainProgress(Progress):
    """Prints a line with the time of day when a stage begins or a trial ends, and others about the state of each study:
    after its first step, then at evaluations and when trials have ended (once the time left is known, at most once a
    minute), and when all trials are done.
    """

    def __init__(
        self,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
        hour: Callable[[], str] = lambda: time.strftime("%H:%M:%S"),
    ) -> None:
        self._stream, self._clock, self._hour = stream, clock, hour
        self._said: dict[str, Said] = {}  # the last line about each study
        self._best = sweep_lines.BestSoFar()
        self._stage = ""

    def stage(self, stage: Stage, what: str = "", study: str = "") -> None:
        if (line := stage_line(stage, what, study)) != self._stage:  # several workers load the same base
            self._stage = line
            self._print(f"{self._hour()} {line}")

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
        last = self._said.get(status.study)
        evaluated = frozenset((slot.trial, slot.evaluated) for slot in status.running if slot.evaluated)
        line = Said(self._clock(), evaluated, status.done, status.done >= status.total, status.eta is None)
        if last is None or last.is_followed_by(line):
            self._said[status.study] = line
            text = sweep_lines.summary(status, self._best.objective(status.study), sweep_lines.steps(status.running))
            self._print(f"{self._hour()} {text}")

    def ended(self, trial: EndedTrial) -> None:
        is_best = self._best.is_beaten_by(trial)
        line = sweep_lines.ended(trial, objective=self._best.objective(trial.study), best=is_best)
        self._print(f"{self._hour()} {line}")

    def left(self, state: SweepState, study: str = "") -> None:
        if study:
            self._print(f"{self._hour()} {study}: {state}")

    def _print(self, line: str) -> None:
        say(fit(line), self._stream)

"""How does a running sweep look on a terminal? A live table of the slots; finished trials scroll above it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TextIO

from rich.live import Live
from rich.text import Text

from peftsweep.progress import sweep_lines
from peftsweep.progress.display import EndedTrial, Opened, Progress, SweepStatus
from peftsweep.progress.live_table import table
from peftsweep.progress.screen import Screen, fit
from peftsweep.scores import label
from peftsweep.sweep_state import SweepState
from peftsweep.trial_state import Ended, TrialState

STYLES: dict[Ended, str] = {TrialState.COMPLETE: "green", TrialState.PRUNED: "yellow", TrialState.FAILED: "red"}
REDRAW = 0.9  # least seconds between two drawings of several studies, each of which reports about once a second


class LiveProgress(Progress):
    """The training thread draws the table; a second thread would slow the training down."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = Screen(stream), clock
        self._live = Live(console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop")
        self._best = sweep_lines.BestSoFar()
        self._studies: dict[str, SweepStatus] = {}  # the latest status of each
        self._drawn = -math.inf

    def opened(self, what: Opened) -> None:
        """Print what was loaded, and start drawing. Libraries have finished their own bars (of downloads) by now."""
        self._live.start()
        self._best.open(what)
        for name, text in sweep_lines.header(what):
            self._print(Text.assemble((f"{name:<9}", "bold"), fit(text)))

    def note(self, text: str) -> None:
        self._print(Text(fit(text), style="dim"))

    def warn(self, text: str) -> None:
        self._print(Text.assemble(("warning: ", "bold yellow"), fit(text)))

    def step(self, status: SweepStatus) -> None:
        self._best.update(status)
        taken = {worker.number for worker in status.workers}  # maybe from a study that has nothing left for them
        for study, other in self._studies.items():
            left = [worker for worker in other.workers if worker.number not in taken]
            self._studies[study] = replace(other, workers=left, eta=other.eta if left else None)
        self._studies[status.study] = status
        now = self._clock()
        if len(self._studies) == 1 or now >= self._drawn + REDRAW:
            self._drawn = now
            self._live.update(self._screen(), refresh=True)

    def _screen(self) -> Text:
        """The table, and a summary of each study below it."""
        studies = list(self._studies.values())
        objectives = {status.study: self._best.objective(status.study) for status in studies}
        score = label(objectives[studies[0].study]) if len(set(objectives.values())) == 1 else "score"
        lines = ["", *table(studies, self._console.height, score), ""]
        summaries = [sweep_lines.summary(status, objectives[status.study]) for status in studies]
        # one text instead of a rich table, which takes ten times as long
        return Text.assemble("\n".join(lines), ("\n".join(summaries), "bold"), no_wrap=True, overflow="ellipsis")

    def ended(self, trial: EndedTrial) -> None:
        is_best = self._best.is_beaten_by(trial)
        line = sweep_lines.ended(trial, objective=self._best.objective(trial.study), best=is_best)
        self._print(Text(fit(line), style=STYLES[trial.state] + (" bold" if is_best else "")))

    def left(self, state: SweepState, study: str = "") -> None:
        """Of several studies, the table shows only those that run."""
        if study:
            self._studies.pop(study, None)
            self._live.update(self._screen() if self._studies else Text(), refresh=True)
            self._print(Text(fit(f"{study}: {state}")))

    def closed(self) -> None:
        self._live.stop()

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

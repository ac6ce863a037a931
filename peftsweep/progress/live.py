"""How does a running sweep look on a terminal? A live table of the slots; finished trials scroll above it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TextIO

from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from peftsweep.progress import sweep_lines
from peftsweep.progress.display import EndedTrial, Opened, Progress, SweepStatus
from peftsweep.progress.live_table import table
from peftsweep.progress.screen import Screen, fit
from peftsweep.progress.stages import Stage, stage_line
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
        self._stage = ""  # the last line on the screen, which will be replaced

    def stage(self, stage: Stage, what: str = "", study: str = "") -> None:
        """Show it in the last line. As long as there is no table, libraries draw their bars (of downloads) over it."""
        self._show_stage(f"{fit(stage_line(stage, what, study))} …")

    def _show_stage(self, line: str) -> None:
        before, self._stage = self._stage, line
        if self._live.is_started:
            self._live.update(self._screen(), refresh=True)
            return
        if before:
            self._console.control(Control((ControlType.CARRIAGE_RETURN,), (ControlType.ERASE_IN_LINE, 2)))
        if line:
            self._console.print(Text(line, style="dim"), end="", no_wrap=True, overflow="ellipsis")

    def opened(self, what: Opened) -> None:
        """Print what was loaded, and start drawing. Libraries have finished their own bars by now."""
        self._show_stage("")
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
        """The table, a summary of each study below it, and what begins."""
        studies, stage = list(self._studies.values()), (self._stage, "dim")
        if not studies:
            return Text.assemble(stage, no_wrap=True, overflow="ellipsis")
        objectives = {status.study: self._best.objective(status.study) for status in studies}
        score = label(objectives[studies[0].study]) if len(set(objectives.values())) == 1 else "score"
        lines = ["", *table(studies, self._console.height, score), ""]
        summaries = [sweep_lines.summary(status, objectives[status.study]) for status in studies]
        # one text instead of a rich table, which takes ten times as long
        shown = Text.assemble("\n".join(lines), ("\n".join(summaries), "bold"), no_wrap=True, overflow="ellipsis")
        return shown.append("\n").append(*stage) if self._stage else shown

    def ended(self, trial: EndedTrial) -> None:
        is_best = self._best.is_beaten_by(trial)
        line = sweep_lines.ended(trial, objective=self._best.objective(trial.study), best=is_best)
        self._print(Text(fit(line), style=STYLES[trial.state] + (" bold" if is_best else "")))

    def left(self, state: SweepState, study: str = "") -> None:
        """Of several studies, the table shows only those that run."""
        if study:
            self._studies.pop(study, None)
            self._live.update(self._screen(), refresh=True)
            self._print(Text(fit(f"{study}: {state}")))

    def closed(self) -> None:
        self._show_stage("")
        self._live.stop()

    def _print(self, text: Text) -> None:
        """Print above the table or the stage."""
        stage = self._stage
        if self._live.is_started or not stage:
            self._console.print(text, soft_wrap=True)
            return
        self._show_stage("")
        self._console.print(text, soft_wrap=True)
        self._show_stage(stage)

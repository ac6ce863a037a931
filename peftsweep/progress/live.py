"""How does a running sweep look on a terminal? A live table of the slots; finished trials scroll above it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from rich.live import Live
from rich.text import Text

from peftsweep.progress import sweep_lines
from peftsweep.progress.display import EndedTrial, Opened, Progress, SweepStatus
from peftsweep.progress.screen import Screen, fit
from peftsweep.scores import label
from peftsweep.trial_state import Ended, TrialState

if TYPE_CHECKING:
    from peftsweep.engine import SlotStatus

STYLES: dict[Ended, str] = {TrialState.COMPLETE: "green", TrialState.PRUNED: "yellow", TrialState.FAILED: "red"}
_OTHER_LINES = 7  # lines of the screen that do not show slots


class LiveProgress(Progress):
    """The training thread draws the table; a second thread would slow the training down."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Screen(stream)
        self._live = Live(console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop")
        self._best = sweep_lines.BestSoFar()

    def opened(self, what: Opened) -> None:
        """Print what was loaded, and start drawing. Libraries have finished their own bars (of downloads) by now."""
        self._live.start()
        self._best.objective = what.objective
        for name, text in sweep_lines.header(what):
            self._print(Text.assemble((f"{name:<9}", "bold"), fit(text)))

    def note(self, text: str) -> None:
        self._print(Text(fit(text), style="dim"))

    def warn(self, text: str) -> None:
        self._print(Text.assemble(("warning: ", "bold yellow"), fit(text)))

    def step(self, status: SweepStatus) -> None:
        self._best.update(status.best)
        objective = self._best.objective
        line = sweep_lines.summary(status, objective)
        self._live.update(_screen(status.slots, line, self._console.height, label(objective)), refresh=True)

    def ended(self, trial: EndedTrial) -> None:
        is_best = self._best.is_beaten_by(trial)
        line = sweep_lines.ended(trial, objective=self._best.objective, best=is_best)
        self._print(Text(fit(line), style=STYLES[trial.state] + (" bold" if is_best else "")))

    def closed(self) -> None:
        self._live.stop()

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)


def _screen(slots: Sequence[SlotStatus], line: str, height: int, score: str) -> Text:
    """The table of as many slots as the terminal has lines for, and a summary below it."""
    shown = sorted(slots, key=lambda slot: (slot.trial is None, slot.slot))[: max(1, height - _OTHER_LINES)]
    columns = ("slot", "trial", "step", "loss", score, "best", "samples/s")
    rows = [columns, *map(sweep_lines.slot_row, shown)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["   ".join(map(str.rjust, row, widths)) for row in rows]
    more = [f"and {len(slots) - len(shown)} more slots"] if len(shown) < len(slots) else []
    table = "\n".join(["", *lines, *more, ""])
    # one text instead of a rich table, which takes ten times as long
    return Text.assemble(table, (line, "bold"), no_wrap=True, overflow="ellipsis")

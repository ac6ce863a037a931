"""What users see: a sweep while it runs, and tables of its results."""

from __future__ import annotations

import os
from typing import TextIO

from peftsweep.progress.bar import bar
from peftsweep.progress.display import EndedTrial, OneOfSeveral, Opened, Progress, Silent, SweepStatus, WorkerStatus
from peftsweep.progress.live import LiveProgress
from peftsweep.progress.plain import PlainProgress
from peftsweep.progress.result_lines import lost_scores, prediction, test_score
from peftsweep.progress.stages import Stage
from peftsweep.progress.sweep_lines import next_step, peak_memory, sweep_result, time_is_over, time_spent, worker_loaded
from peftsweep.progress.tables import best_table, retrained_table, status_table

__all__ = [
    "EndedTrial",
    "LiveProgress",
    "OneOfSeveral",
    "Opened",
    "PlainProgress",
    "Progress",
    "Silent",
    "Stage",
    "SweepStatus",
    "WorkerStatus",
    "bar",
    "best_table",
    "for_stream",
    "lost_scores",
    "next_step",
    "peak_memory",
    "prediction",
    "retrained_table",
    "status_table",
    "sweep_result",
    "test_score",
    "time_is_over",
    "time_spent",
    "worker_loaded",
]


def for_stream(stream: TextIO) -> Progress:
    """A live table on a terminal that can move its cursor; plain lines in a pipe, a file, a notebook or CI."""
    moves = stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb") and not os.environ.get("CI")
    return LiveProgress(stream) if moves else PlainProgress(stream)

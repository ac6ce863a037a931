"""What a person sees: a sweep while it runs, and tables of what came of it."""

from __future__ import annotations

import os
from typing import TextIO

from peftsweep.progress.bar import bar
from peftsweep.progress.live import LiveProgress
from peftsweep.progress.phrases import finished, peak, prediction, spent, tested
from peftsweep.progress.plain import PlainProgress
from peftsweep.progress.tables import best_table, retrained_table, status_table
from peftsweep.progress.watcher import Memory, Opened, Progress, Silent

__all__ = [
    "LiveProgress",
    "Memory",
    "Opened",
    "PlainProgress",
    "Progress",
    "Silent",
    "bar",
    "best_table",
    "finished",
    "for_stream",
    "peak",
    "prediction",
    "retrained_table",
    "spent",
    "status_table",
    "tested",
]


def for_stream(stream: TextIO) -> Progress:
    """A live table on a terminal that can move its cursor; plain lines in a pipe, a file, a notebook or CI."""
    moves = stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb") and not os.environ.get("CI")
    return LiveProgress(stream) if moves else PlainProgress(stream)

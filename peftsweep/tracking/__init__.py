"""MLflow as a projection of the study: one parent run, a child run for each trial; and the server that shows them.

The study's own database is the truth. MLflow gets a copy, written by one thread behind a queue, so that a server
that is slow, down or wiped never slows or fails a trial.
"""

from __future__ import annotations

from peftsweep.tracking.addresses import check as check_address
from peftsweep.tracking.comparison import COMPARISON, SELECTION
from peftsweep.tracking.contract import Outcome, Parent, Past, Point
from peftsweep.tracking.runs import ABOVE, KEY, now
from peftsweep.tracking.server import serve
from peftsweep.tracking.tracker import Tracker

__all__ = [
    "ABOVE",
    "COMPARISON",
    "KEY",
    "SELECTION",
    "Outcome",
    "Parent",
    "Past",
    "Point",
    "Tracker",
    "check_address",
    "now",
    "serve",
]

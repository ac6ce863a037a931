"""MLflow as a projection of the study: one parent run, a child run for each trial; and the server that shows them.

The study's own database is the truth. MLflow gets a copy, written by one thread behind a queue, so that a server
that is slow, down or wiped never slows or fails a trial.
"""

from __future__ import annotations

from peftsweep.tracking.comparison_run import COMPARISON, SELECTION
from peftsweep.tracking.locations import check as check_address
from peftsweep.tracking.mlflow_runs import ABOVE, KEY, now
from peftsweep.tracking.mlflow_server import serve
from peftsweep.tracking.queue import Tracker
from peftsweep.tracking.sink import Outcome, Parent, Past, Point

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

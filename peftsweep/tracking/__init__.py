"""Where else can a sweep be watched? In a tracker: today MLflow, whose server can be started here, too.

The study's own database is the truth. The tracker gets a copy, which one thread writes from a queue. So a server that
is slow, down or wiped never slows or fails a trial. `sink.py` says what a tracker is.
"""

from __future__ import annotations

from peftsweep.tracking.mlflow_runs import MlflowRuns
from peftsweep.tracking.mlflow_server import serve
from peftsweep.tracking.queue import Tracker
from peftsweep.tracking.run_names import seed_name, trial_name
from peftsweep.tracking.sink import (
    COMPARISON,
    KEY,
    RETRAIN_OF,
    SELECTION,
    OpenSink,
    Outcome,
    Point,
    Sink,
    StudySnapshot,
    TrialSnapshot,
    now,
)

__all__ = [
    "COMPARISON",
    "KEY",
    "RETRAIN_OF",
    "SELECTION",
    "MlflowRuns",
    "OpenSink",
    "Outcome",
    "Point",
    "Sink",
    "StudySnapshot",
    "Tracker",
    "TrialSnapshot",
    "now",
    "seed_name",
    "serve",
    "trial_name",
]

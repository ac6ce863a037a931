"""What is written to one run in MLflow: its params, tags, points and state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from peftsweep.tracking.in_sync import IN_MLFLOW
from peftsweep.tracking.sink import Point
from peftsweep.trial_state import TrialState

if TYPE_CHECKING:
    from mlflow.entities import Run

    from peftsweep.tracking.mlflow_client import Client

PARAM_LIMIT, TAG_LIMIT, BATCH_LIMIT, METRIC_LIMIT = 6000, 8000, 100, 1000  # MLflow's own limits


def describe(client: Callable[[], Client], run: Run, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
    """Write params and tags. MLflow's params cannot change: a changed value becomes a tag."""
    from mlflow.entities import Param, RunTag

    texts = {key: str(value)[:PARAM_LIMIT] for key, value in params.items()}
    there = run.data.params
    changed = {f"param_changed.{key}": text for key, text in texts.items() if there.get(key, text) != text}
    new_params = [Param(key, text) for key, text in texts.items() if key not in there]
    new_tags = [
        RunTag(key, value[:TAG_LIMIT]) for key, value in {**tags, **changed}.items() if run.data.tags.get(key) != value
    ]
    for first in range(0, max(len(new_params), len(new_tags)), BATCH_LIMIT):
        part = slice(first, first + BATCH_LIMIT)
        client().log_batch(run.info.run_id, params=new_params[part], tags=new_tags[part])


def log_points(client: Callable[[], Client], run_id: str, points: Iterable[Point]) -> None:
    """Write the finite metrics of some steps, in as few calls as MLflow allows."""
    from mlflow.entities import Metric

    metrics = [
        Metric(name, float(value), point.at or 0, point.step)
        for point in points
        for name, value in point.metrics.items()
        if math.isfinite(value)
    ]
    for first in range(0, len(metrics), METRIC_LIMIT):
        client().log_batch(run_id, metrics=metrics[first : first + METRIC_LIMIT])


def terminate(client: Callable[[], Client], run_id: str, state: TrialState, reason: str, at: int) -> None:
    """Mark a run as ended."""
    from mlflow.entities import RunTag

    tags = {"peftsweep.state": IN_MLFLOW[state].tag} | ({"peftsweep.reason": reason[:TAG_LIMIT]} if reason else {})
    client().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    client().set_terminated(run_id, IN_MLFLOW[state].status, at)

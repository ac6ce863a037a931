"""Whether a run in MLflow is what it should be. Nothing is written here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from peftsweep.tracking.sink import STATUS, Past, named

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def is_level(client: MlflowClient, run: Run | None, past: Past, *, files: bool = False, points: bool = False) -> bool:
    """Whether a run has ended in the same state, under its name, with the same last metrics. That of a trial which goes
    on may not be there yet.

    Args:
        files: and has all its artifacts; a request or two.
        points: and every point of its curves; a request for each metric.
    """
    if run is None:
        return past.outcome.state == "interrupted"
    return (
        _ended_as(run, past)
        and (not files or _has_files(client, run, past.outcome.artifacts))
        and (not points or _has_points(client, run, past))
    )


def _ended_as(run: Run, past: Past) -> bool:
    last = {name: value for point in past.curve[-1:] for name, value in point.metrics.items()}
    due = {name: value for name, value in (last | dict(past.outcome.metrics)).items() if math.isfinite(value)}
    state = past.outcome.state
    ended = run.info.status == STATUS[state] and run.data.tags.get("peftsweep.state") == state
    if past.name and run.info.run_name != named(past.name, state):  # an earlier version named it otherwise
        return False
    return ended and due.items() <= run.data.metrics.items()


def _has_points(client: MlflowClient, run: Run, past: Past) -> bool:
    due: dict[str, set[int]] = {}
    for point in past.curve:
        for name, value in point.metrics.items():
            if math.isfinite(value):
                due.setdefault(name, set()).add(point.step)
    return all(
        steps <= {there.step for there in client.get_metric_history(run.info.run_id, name)}
        for name, steps in due.items()
    )


def _has_files(client: MlflowClient, run: Run, artifacts: Mapping[str, Path]) -> bool:
    """Whether each of these files is there, with as many bytes."""
    due = _sizes(artifacts)
    folders = {Path(place).parent.as_posix() for place in due}
    listed = [
        file for folder in folders for file in client.list_artifacts(run.info.run_id, None if folder == "." else folder)
    ]
    return due.items() <= {file.path: file.file_size for file in listed}.items()


def _sizes(artifacts: Mapping[str, Path]) -> dict[str, int]:
    """Bytes of each file, by its place in the run."""
    found: dict[str, int] = {}
    for place, source in artifacts.items():
        files = source.rglob("*") if source.is_dir() else [source]
        found |= {
            (Path(place) / file.relative_to(source)).as_posix(): file.stat().st_size for file in files if file.is_file()
        }
    return found

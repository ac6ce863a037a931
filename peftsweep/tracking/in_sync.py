"""Is a run in MLflow in sync with the study? Only read here, never written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from peftsweep.tracking.run_names import run_name
from peftsweep.tracking.sink import TrialSnapshot
from peftsweep.trial_state import TrialState

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class InMlflow(NamedTuple):
    """How a run shows a state: MLflow has no status of its own for some, so a tag has the word for it."""

    status: str
    tag: str


IN_MLFLOW = {
    TrialState.COMPLETE: InMlflow("FINISHED", "complete"),
    TrialState.PRUNED: InMlflow("KILLED", "pruned"),
    TrialState.FAILED: InMlflow("FAILED", "failed"),
    TrialState.RUNNING: InMlflow("RUNNING", "running"),
    TrialState.STOPPED: InMlflow("KILLED", "interrupted"),
}


def is_in_sync(
    client: MlflowClient, run: Run | None, trial: TrialSnapshot, *, files: bool = False, points: bool = False
) -> bool:
    """Whether a run has the trial's state, name and last metrics. The run of a trial that will be continued may be
    missing.

    Args:
        files: check the artifacts too, with a request or two.
        points: check every point of the curves too, with a request for each metric.
    """
    if run is None:
        return trial.outcome.state == TrialState.STOPPED
    return (
        _ended_as(run, trial)
        and (not files or _has_files(client, run, trial.outcome.artifacts))
        and (not points or _has_points(client, run, trial))
    )


def _ended_as(run: Run, trial: TrialSnapshot) -> bool:
    last = {name: value for point in trial.curve[-1:] for name, value in point.metrics.items()}
    due = {name: value for name, value in (last | dict(trial.outcome.metrics)).items() if math.isfinite(value)}
    state = trial.outcome.state
    ended = (run.info.status, run.data.tags.get("peftsweep.state")) == IN_MLFLOW[state]
    if trial.name and run.info.run_name != run_name(trial.name, state):  # an earlier version named it differently
        return False
    return ended and due.items() <= run.data.metrics.items()


def _has_points(client: MlflowClient, run: Run, trial: TrialSnapshot) -> bool:
    due: dict[str, set[int]] = {}
    for point in trial.curve:
        for name, value in point.metrics.items():
            if math.isfinite(value):
                due.setdefault(name, set()).add(point.step)
    return all(
        steps <= {there.step for there in client.get_metric_history(run.info.run_id, name)}
        for name, steps in due.items()
    )


def _has_files(client: MlflowClient, run: Run, artifacts: Mapping[str, Path]) -> bool:
    """Whether the run has each of these files, with the same size."""
    due = _sizes(artifacts)
    folders = {Path(place).parent.as_posix() for place in due}
    listed = [
        file for folder in folders for file in client.list_artifacts(run.info.run_id, None if folder == "." else folder)
    ]
    return due.items() <= {file.path: file.file_size for file in listed}.items()


def _sizes(artifacts: Mapping[str, Path]) -> dict[str, int]:
    """Size of each file in bytes, by its path in the run."""
    found: dict[str, int] = {}
    for place, source in artifacts.items():
        files = source.rglob("*") if source.is_dir() else [source]
        found |= {
            (Path(place) / file.relative_to(source)).as_posix(): file.stat().st_size for file in files if file.is_file()
        }
    return found

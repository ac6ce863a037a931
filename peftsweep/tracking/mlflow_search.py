"""Which runs of a study does MLflow have already? A server may hold a run twice: one of them is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from peftsweep.tracking.sink import KEY

if TYPE_CHECKING:
    from mlflow.entities import Run

    from peftsweep.tracking.mlflow_client import Client


def study_runs(client: Callable[[], Client], experiment_id: str, key: str) -> list[Run]:
    """A study's own run, by the study's key; the most complete one first if there are several."""
    return _most_complete_first(client().tagged(experiment_id, KEY, key))


def trial_runs(client: Callable[[], Client], parent: Run) -> dict[str, list[Run]]:
    """The runs of a study's trials, by number; the most complete one first if a trial has several."""
    found: dict[str, list[Run]] = {}
    for run in client().tagged(parent.info.experiment_id, "mlflow.parentRunId", parent.info.run_id):
        if "peftsweep.trial" in run.data.tags:
            found.setdefault(run.data.tags["peftsweep.trial"], []).append(run)
    return {number: _most_complete_first(same) for number, same in found.items()}


def keep_one(client: Callable[[], Client], same: list[Run], kept: Run | None = None) -> Run:
    """Keep one run of a study or a trial, and delete the others. A server makes a second one if it handles a request
    after the client has given up waiting and sent it again.

    Args:
        kept: the run to keep; by default the first.
    """
    kept = kept or same[0]
    for run in same:
        if run.info.run_id != kept.info.run_id:
            below = client().tagged(run.info.experiment_id, "mlflow.parentRunId", run.info.run_id)
            for duplicate in [*below, run]:
                client().delete_run(duplicate.info.run_id)
    return kept


def _most_complete_first(same: Iterable[Run]) -> list[Run]:
    return sorted(same, key=lambda run: (len(run.data.metrics), len(run.data.params)), reverse=True)

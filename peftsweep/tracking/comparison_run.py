"""Where does MLflow show the comparison pages? In one run of each experiment, which holds nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftsweep.tracking.sink import COMPARISON, BadAnswerError

if TYPE_CHECKING:
    from mlflow.entities import Run

    from peftsweep.tracking.mlflow_client import Client

KIND = "peftsweep.kind"
NOTE = f"All studies side by side: open **{COMPARISON}** under *Artifacts*."


def get_or_create(client: Client, experiment_id: str, at: int) -> Run:
    """The experiment's comparison run. If two sweeps created one at the same moment, the older is kept.

    Args:
        at: start of a new run, in milliseconds since 1970.
    """
    if not runs(client, experiment_id):
        client.create_run(experiment_id, at, {KIND: "comparison", "mlflow.note.content": NOTE}, "comparison")
    found = runs(client, experiment_id)
    if not found:
        raise BadAnswerError("it does not have the run that it was asked to make")
    first, *others = found
    for other in others:
        client.delete_run(other.info.run_id)
    return first


def runs(client: Client, experiment_id: str) -> list[Run]:
    """The comparison runs, oldest first."""
    found = client.tagged(experiment_id, KIND, "comparison")
    return sorted(found, key=lambda run: (run.info.start_time or 0, run.info.run_id))


def time_tag(name: str) -> str:
    """The tag with the time of the page of this name, in milliseconds since 1970."""
    return f"peftsweep.drawn.{name}"


def has_page(client: Client, run: Run, name: str, at: int) -> bool:
    """Whether the run has a page of this name that is not older than this time."""
    files = client.list_artifacts(run.info.run_id)
    time = run.data.tags.get(time_tag(name), "")
    return any(file.path == name for file in files) and time.isdecimal() and int(time) >= at
